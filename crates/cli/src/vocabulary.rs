//! `vlct vocabulary DATASET... --out FILE`: trains a WordPiece vocabulary on the texts of datasets.

use std::io::Write;
use std::path::Path;

use vlct_data::datasets::{Dataset, FileRules, Split, TableDataset, contents};
use vlct_text::{Tokenizer, VocabularyTrainer};
use vlct_util::{IoError, at, atomic};

use crate::args::Vocabulary;
use crate::output::{Failure, check_directory, print, with_thousands_separators};

/// Runs the command.
pub fn run(args: &Vocabulary) -> Result<(), Failure> {
    if args.out.exists() && !args.overwrite {
        return Err(Failure::Failed(format!(
            "{}: the file exists; a model needs the vocabulary that it was trained with, so give another name or --overwrite",
            args.out.display()
        )));
    }
    check_directory(&args.out)?;
    let datasets = args
        .datasets
        .iter()
        .map(|name| open(&args.data_root, name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut trainer = VocabularyTrainer::new(!args.cased);
    let mut texts = 0u64;
    for_each_text(&datasets, |text| {
        trainer.add(text);
        texts += 1;
    })?;
    let (words, distinct) = (trainer.words(), trainer.distinct_words() as u64);
    if words == 0 {
        return Err(Failure::Failed(format!("{} has no texts", args.datasets.join(", "))));
    }
    let tokens = trainer.finish(args.size);
    atomic::write(&args.out, |out| {
        tokens.iter().try_for_each(|token| writeln!(out, "{token}"))
    })
    .map_err(at::<IoError>(&args.out))?;

    let tokenizer = Tokenizer::from_file(&args.out, !args.cased)?;
    let (own, english) = (
        Division::of(&datasets, &tokenizer)?,
        Division::of(&datasets, &Tokenizer::bert_base_uncased())?,
    );
    let out = args.out.display();
    print(&format!(
        "{} texts of {} words, {} of them different\n\
         wrote {out}: {} tokens\n\
         tokens per word: {:.2} (bert-base-uncased: {:.2}); unknown words: {:.2} % (bert-base-uncased: {:.2} %)\n\
         train with it: vlct train {} --data-root {} tokenizer={out}\n",
        with_thousands_separators(texts),
        with_thousands_separators(words),
        with_thousands_separators(distinct),
        with_thousands_separators(tokens.len() as u64),
        own.tokens_per_word,
        english.tokens_per_word,
        own.unknown_percent,
        english.unknown_percent,
        args.datasets.join(" "),
        args.data_root.display(),
    ))
}

/// Opens the training split of a dataset.
fn open(data_root: &Path, name: &str) -> Result<TableDataset, Failure> {
    let contents = contents(data_root, name)?;
    Ok(TableDataset::open_with(
        contents,
        data_root,
        &[name],
        Split::Train,
        &FileRules::default(),
    )?)
}

fn for_each_text(datasets: &[TableDataset], mut action: impl FnMut(&str)) -> Result<(), Failure> {
    for dataset in datasets {
        for item in 0..dataset.len() {
            if let Some(text) = dataset.text(item)? {
                action(&text);
            }
        }
    }
    Ok(())
}

/// How a tokenizer divides texts.
struct Division {
    tokens_per_word: f64,
    unknown_percent: f64,
}

impl Division {
    fn of(datasets: &[TableDataset], tokenizer: &Tokenizer) -> Result<Self, Failure> {
        let (mut tokens, mut words, mut unknown) = (0u64, 0u64, 0u64);
        for_each_text(datasets, |text| {
            let ids = tokenizer.encode(text, usize::MAX);
            for id in &ids[1..ids.len() - 1] {
                tokens += 1;
                words += u64::from(!tokenizer.is_continuation(*id));
                unknown += u64::from(*id == tokenizer.unk());
            }
        })?;
        let per_word = |count: u64| count as f64 / words.max(1) as f64;
        Ok(Self {
            tokens_per_word: per_word(tokens),
            unknown_percent: 100.0 * per_word(unknown),
        })
    }
}
