//! Batches: sampling order, decoding threads, prefetch.
