//! Logs: metrics.jsonl, TensorBoard events, progress.
