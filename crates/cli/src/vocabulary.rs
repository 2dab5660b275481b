//! `vlct vocabulary DATASET... --out FILE`: trains a WordPiece vocabulary on the texts of datasets.

use std::io::Write;
use std::path::Path;

use vlct_data::datasets::{Dataset, FileRules, Split, TableDataset, contents};
use vlct_text::{Sizes, Tokenizer, VocabularyTrainer};
use vlct_util::text::counted;
use vlct_util::{IoError, at, atomic};

use crate::args::Vocabulary;
use crate::output::{Failure, check_directory, print, with_thousands_separators};
use crate::shell::shell_word;

/// Share of unknown words, in percent, from which a size is said to be small.
const WARN_UNKNOWN_PERCENT: f64 = 1.0;
/// Share of divided words, in percent, above which a size is said to be small.
const WARN_DIVIDED_PERCENT: f64 = 50.0;

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
    let sizes = trainer.sizes();
    if args.size < sizes.smallest {
        return Err(Failure::Failed(format!(
            "--size {} cannot hold the characters of the texts and the special tokens; the smallest possible size is {}",
            args.size, sizes.smallest
        )));
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
    if tokens.len() >= args.size {
        warn_of_small_size(args.size, sizes, &own);
    }
    let out = args.out.display();
    print(&format!(
        "{} of {}, {} of them different\n\
         wrote {out}: {}\n\
         tokens per word: {:.2} (bert-base-uncased: {:.2}); unknown words: {:.2} % (bert-base-uncased: {:.2} %)\n\
         train with it: vlct train {} --data-root {} tokenizer={}\n",
        counted(with_thousands_separators(texts), "text"),
        counted(with_thousands_separators(words), "word"),
        with_thousands_separators(distinct),
        counted(with_thousands_separators(tokens.len() as u64), "token"),
        own.tokens_per_word,
        english.tokens_per_word,
        own.unknown_percent,
        english.unknown_percent,
        args.datasets.join(" "),
        shell_word(args.data_root.display()),
        shell_word(&out),
    ))
}

/// Warns if a vocabulary of the largest size allowed makes many words unknown or divides most of them.
fn warn_of_small_size(size: usize, sizes: Sizes, own: &Division) {
    let unknown = own.unknown_percent >= WARN_UNKNOWN_PERCENT;
    if !unknown && own.divided_percent <= WARN_DIVIDED_PERCENT {
        return;
    }
    let mut shares = Vec::new();
    if unknown {
        shares.push(format!("{:.1} % of the words are unknown", own.unknown_percent));
    }
    if own.divided_percent > WARN_DIVIDED_PERCENT {
        shares.push(format!("{:.0} % are divided into several tokens", own.divided_percent));
    }
    let advice = match size < sizes.all_characters {
        true => format!(
            "{} tokens hold every character, and more of them whole words",
            sizes.all_characters
        ),
        false => "every character has a token, and a larger size gives whole words tokens".into(),
    };
    log::warn!(
        "--size {size} is small for these texts: {}; {advice}",
        shares.join(", ")
    );
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
    /// Share of the words that are more than one token.
    divided_percent: f64,
}

impl Division {
    fn of(datasets: &[TableDataset], tokenizer: &Tokenizer) -> Result<Self, Failure> {
        let (mut tokens, mut words, mut unknown, mut divided) = (0u64, 0u64, 0u64, 0u64);
        for_each_text(datasets, |text| {
            let ids = tokenizer.encode(text, usize::MAX);
            let mut is_start = false;
            for id in &ids[1..ids.len() - 1] {
                let is_continuation = tokenizer.is_continuation(*id);
                tokens += 1;
                words += u64::from(!is_continuation);
                unknown += u64::from(*id == tokenizer.unk());
                divided += u64::from(is_start && is_continuation);
                is_start = !is_continuation;
            }
        })?;
        let per_word = |count: u64| count as f64 / words.max(1) as f64;
        Ok(Self {
            tokens_per_word: per_word(tokens),
            unknown_percent: 100.0 * per_word(unknown),
            divided_percent: 100.0 * per_word(divided),
        })
    }
}
