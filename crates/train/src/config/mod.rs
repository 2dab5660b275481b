//! Configuration: one table of keys, the command grammar, recipes.
