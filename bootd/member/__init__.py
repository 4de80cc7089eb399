"""The ring member: the same program as head, golden node and target. They differ in source and sink only.

Imports `bootd.wire` and the standard library, so that it runs from the node bundle.
"""
