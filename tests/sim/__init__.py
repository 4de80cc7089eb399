"""RingSim: the real coordinator and real ring members on a virtual clock, with seeded trouble."""
