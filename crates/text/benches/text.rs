//! The time of tokenising a caption. An element of "Kelem/s" is a caption.

use criterion::{Criterion, Throughput};
use vlct_text::Tokenizer;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("text");
    group.throughput(Throughput::Elements(1));
    let tokenizer = Tokenizer::bert_base_uncased();
    let caption = "A man in a green hat holds a kite above the beach while two dogs watch.";
    group.bench_function("tokenise a caption", |bench| {
        bench.iter(|| tokenizer.encode(caption, 40))
    });
    group.finish();
    criterion.final_summary();
}
