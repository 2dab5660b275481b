//! Position tables: sine-cosine initialisation and bicubic resizing.
