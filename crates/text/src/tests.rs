//! Tests of the vocabulary, the tokenizer and masking.

use super::*;
use crate::TextError;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;

fn bert() -> Tokenizer {
    Tokenizer::bert_base_uncased()
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, 512);
    let tokens = tokenizer.tokens(&ids);
    tokens[1..tokens.len() - 1].iter().map(|t| t.to_string()).collect()
}

/// A tokenizer whose vocabulary is the special tokens and `tokens`.
fn tokenizer_of(tokens: &[&str], lower_case: bool) -> Tokenizer {
    let lines = [&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], tokens]
        .concat()
        .join("\n");
    let vocabulary = Vocabulary::parse(Path::new("vocab.txt"), lines.into_bytes()).unwrap();
    Tokenizer::new(vocabulary.into(), lower_case)
}

#[test]
fn encodes_and_decodes_as_recorded() {
    let tokenizer = bert();
    for directory in vlct_golden::directories("text") {
        let cases = vlct_golden::json(directory.join("wordpiece.json"));
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let numbers = |key: &str| -> Vec<u32> {
                let values = case[key].as_array().unwrap().iter();
                values.map(|v| v.as_u64().unwrap() as u32).collect()
            };
            let (padded, mask) = (numbers("input_ids"), numbers("attention_mask"));
            let expected: Vec<u32> = padded
                .iter()
                .zip(&mask)
                .filter(|(_, m)| **m == 1)
                .map(|(id, _)| *id)
                .collect();
            let ids = tokenizer.encode(text, padded.len());
            assert_eq!(ids, expected, "{text:?}");
            assert_eq!(tokenizer.decode(&ids), case["decoded"].as_str().unwrap(), "{text:?}");
            let tokens: Vec<&str> = case["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t.as_str().unwrap())
                .collect();
            assert_eq!(pieces(&tokenizer, text), tokens, "{text:?}");
        }
    }
}

#[test]
fn embedded_vocabulary_equals_berts() {
    let tokenizer = bert();
    assert_eq!(tokenizer.len(), 30_522);
    let specials = [
        tokenizer.pad(),
        tokenizer.unk(),
        tokenizer.cls(),
        tokenizer.sep(),
        tokenizer.mask(),
    ];
    assert_eq!(specials, [0, 100, 101, 102, 103]);
    for (id, token) in tokenizer.vocabulary().iter().enumerate() {
        assert_eq!(tokenizer.id(token), Some(id as u32), "{token}");
        assert_eq!(tokenizer.token(id as u32), Some(token));
    }
    assert_eq!(tokenizer.token(30_522), None);
    assert_eq!(tokenizer.tokens(&[u32::MAX, 1037]), ["[UNK]", "a"]);
    assert_eq!(tokenizer.id("surfboardx"), None);
    assert!(tokenizer.is_continuation(tokenizer.id("##ing").unwrap()));
    assert!(!tokenizer.is_continuation(tokenizer.id("a").unwrap()));
    assert!(!tokenizer.is_continuation(u32::MAX));
}

#[test]
fn special_tokens_are_found_in_the_raw_text_only() {
    let tokenizer = bert();
    assert_eq!(
        pieces(&tokenizer, "a[MASK]b[mask] [MA\0SK]"),
        ["a", "[MASK]", "b", "[", "mask", "]", "[", "mask", "]"]
    );
    assert_eq!(pieces(&tokenizer, "[[SEP]]["), ["[", "[SEP]", "]", "["]);
}

#[test]
fn unusual_characters_are_classified_as_in_the_original() {
    let tokenizer = bert();
    // A capital sigma is lower-cased without context: to σ, never to the final ς.
    assert_eq!(pieces(&tokenizer, "ΟΔΟΣ"), pieces(&tokenizer, "οδοσ"));
    assert_ne!(pieces(&tokenizer, "ΟΔΟΣ"), pieces(&tokenizer, "οδος"));
    // A character that decomposes to punctuation.
    assert_eq!(pieces(&tokenizer, "why\u{37E}dog"), ["why", ";", "dog"]);
    // Line and paragraph separators end words; format characters do not.
    assert_eq!(
        pieces(&tokenizer, "dog\u{2028}cat\u{2029}do\u{AD}g\u{3000}cat"),
        ["dog", "cat", "dog", "cat"]
    );
    // Ideographs, including compatibility ideographs (which decompose), are words by themselves; kana and hangul are not.
    assert_eq!(pieces(&tokenizer, "dog東\u{F91B}cat"), ["dog", "東", "[UNK]", "cat"]);
    // A word of accents alone becomes empty.
    assert_eq!(pieces(&tokenizer, "a \u{301}\u{302} b"), ["a", "b"]);
    // Dashes and quotation marks split words.
    assert_eq!(pieces(&tokenizer, "dog—“cat”"), ["dog", "—", "“", "cat", "”"]);
    // A word without a complete segmentation is unknown as a whole.
    assert_eq!(pieces(&tokenizer, "dog\u{1F3C4} cat"), ["[UNK]", "cat"]);
}

#[test]
fn words_of_more_than_100_characters_are_unknown() {
    let tokenizer = bert();
    for character in ["a", "é", "ж"] {
        assert!(!pieces(&tokenizer, &character.repeat(100)).contains(&"[UNK]".to_string()));
        assert_eq!(pieces(&tokenizer, &character.repeat(101)), ["[UNK]"]);
    }
    // Accents are removed before the length is checked.
    assert_ne!(pieces(&tokenizer, &"e\u{301}".repeat(100)), ["[UNK]"]);
}

#[test]
fn truncation_keeps_cls_and_sep() {
    let tokenizer = bert();
    let full = tokenizer.encode("a surfboard, snowboarding antidisestablishmentarianism", 512);
    for max_len in 2..full.len() + 3 {
        let ids = tokenizer.encode("a surfboard, snowboarding antidisestablishmentarianism", max_len);
        let kept = max_len.min(full.len()) - 2;
        assert_eq!(ids[1..ids.len() - 1], full[1..1 + kept]);
        assert_eq!((ids[0], ids[ids.len() - 1]), (101, 102));
    }
    for max_len in [0, 1, 2] {
        assert_eq!(tokenizer.encode("a dog", max_len), [101, 102]);
    }
}

#[test]
fn cased_vocabularies_keep_case_and_accents() {
    let tokenizer = tokenizer_of(&["Dog", "dog", "é", "e"], false);
    assert_eq!(pieces(&tokenizer, "Dog dog é e DOG"), ["Dog", "dog", "é", "e", "[UNK]"]);
    let tokenizer = tokenizer_of(&["Dog", "dog", "é", "e"], true);
    assert_eq!(pieces(&tokenizer, "Dog dog é e DOG"), ["dog", "dog", "e", "e", "dog"]);
}

#[test]
fn vocabulary_without_continuations_has_whole_words_only() {
    let tokenizer = tokenizer_of(&["dog", "s"], true);
    assert_eq!(pieces(&tokenizer, "dog dogs"), ["dog", "[UNK]"]);
}

#[test]
fn reads_files_with_crlf_duplicates_and_blank_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vocab.txt");
    fs::write(
        &file,
        "\u{feff}[PAD]\r\ndog\r\n\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\ndog\r\n\r\n",
    )
    .unwrap();
    let tokenizer = Tokenizer::from_file(&file, true).unwrap();
    assert_eq!(tokenizer.len(), 8);
    assert_eq!(tokenizer.pad(), 0);
    assert_eq!(tokenizer.token(1), Some("dog"));
    assert_eq!(tokenizer.token(2), Some(""));
    assert_eq!(tokenizer.id("dog"), Some(7)); // the last of equal tokens, as in the original
    assert_eq!(tokenizer.encode("dog", 40), [4, 7, 5]);
}

#[test]
fn rejects_invalid_vocabularies_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("words.txt");
    let too_large = vec![b'a'; (16 << 20) + 1];
    for (contents, reason) in [
        (&b""[..], "empty"),
        (b"\n\r\n", "empty"),
        (b"dog\ncat\n", "no line [PAD], [UNK], [CLS], [SEP], [MASK];"),
        (b"[PAD]\n[UNK]\n[CLS] \n[SEP]\n[MASK]", "no line [CLS];"),
        (b"[PAD]\n[UNK]\n\xff\xfe", "line 3 is not UTF-8"),
        (&too_large, "more than 16 MiB"),
    ] {
        fs::write(&file, contents).unwrap();
        let error = Tokenizer::from_file(&file, true).unwrap_err();
        assert!(matches!(error, TextError::Format { .. } | TextError::Io(_)));
        let message = error.to_string();
        assert!(message.contains("words.txt: ") && message.contains(reason), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
    for missing in [directory.path().join("none"), directory.path().to_path_buf()] {
        assert!(matches!(Tokenizer::from_file(missing, true), Err(TextError::Io(_))));
    }
}

#[test]
fn named_accepts_a_name_a_file_or_a_directory() {
    assert_eq!(Tokenizer::named("bert-base-uncased").unwrap().len(), 30_522);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, tokens: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[Unused]\n{tokens}")).unwrap();
        path.to_str().unwrap().to_string()
    };
    for (name, tokens, lower_case) in [
        ("a/vocab.txt", "dog\ncat", true),
        ("b/vocab.txt", "dog\nCat", false),
        ("c/vocab.txt", "dog\nÉ", false),
        ("uncased/vocab.txt", "dog\nCat", true),
    ] {
        let path = write(name, tokens);
        assert_eq!(Tokenizer::named(&path).unwrap().lower_case(), lower_case, "{name}");
        let directory = path.strip_suffix("/vocab.txt").unwrap();
        assert_eq!(Tokenizer::named(directory).unwrap().lower_case(), lower_case, "{name}");
    }
    for wrong in [
        "",
        "roberta-base",
        "/no/such/vocab.txt",
        directory.path().to_str().unwrap(),
    ] {
        let message = Tokenizer::named(wrong).unwrap_err().to_string();
        assert!(
            message.contains(wrong) && message.contains("bert-base-uncased"),
            "{message}"
        );
    }
}

#[test]
fn tokenizers_can_be_shared_between_threads() {
    fn assert_shareable<T: Send + Sync>(_: &T) {}
    assert_shareable(&bert());
}

proptest! {
    #[test]
    fn any_text_encodes_to_valid_ids_between_cls_and_sep(
        text in prop_oneof![
            any::<String>(),
            "(\\PC|\\[(CLS|SEP|MASK|PAD|UNK)\\]|[a-zA-Z ,.\u{301}\u{37E}東\u{F91B}ΣİＡ]){0,60}",
        ],
        max_len in 2usize..60,
        lower_case: bool,
    ) {
        let tokenizer = Tokenizer::new(std::sync::Arc::new(Vocabulary::parse(
            Path::new("vocab.txt"),
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nA\n##a\nb\n##b\nab\n,\n東".into(),
        ).unwrap()), lower_case);
        for tokenizer in [bert(), tokenizer] {
            let ids = tokenizer.encode(&text, max_len);
            prop_assert!(ids.len() <= max_len && ids.len() >= 2);
            prop_assert_eq!(ids[0], tokenizer.cls());
            prop_assert_eq!(ids[ids.len() - 1], tokenizer.sep());
            prop_assert!(ids.iter().all(|&id| tokenizer.token(id).is_some()));
            // A shorter limit gives a prefix of the pieces.
            let full = tokenizer.encode(&text, usize::MAX);
            prop_assert_eq!(&full[..ids.len() - 1], &ids[..ids.len() - 1]);
            prop_assert_eq!(ids.len(), full.len().min(max_len));
            tokenizer.decode(&ids);
        }
    }

    #[test]
    fn parsing_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), has_specials: bool) {
        let mut file = bytes;
        if has_specials {
            file.extend(b"\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
        }
        if let Ok(vocabulary) = Vocabulary::parse(Path::new("vocab.txt"), file) {
            for token in vocabulary.iter() {
                let id = vocabulary.id(token).unwrap();
                prop_assert_eq!(vocabulary.token(id), Some(token));
            }
        }
    }

    #[test]
    fn labels_are_the_original_tokens_and_others_are_unchanged(
        ids in prop::collection::vec(0u32..30_522, 0..60),
        whole_word: bool,
        probability in 0.0..=1.0,
        max_text_len in 0usize..60,
        seed: u64,
    ) {
        let tokenizer = bert();
        let config = MaskingConfig { whole_word, probability, max_text_len };
        let masked = mask_tokens(&tokenizer, &ids, &config, &mut ChaCha8Rng::seed_from_u64(seed));
        prop_assert_eq!(masked.ids.len(), ids.len());
        prop_assert_eq!(masked.labels.len(), ids.len());
        for ((&id, &seen), &label) in ids.iter().zip(&masked.ids).zip(&masked.labels) {
            match label {
                Some(original) => prop_assert!(original == id && (seen as usize) < tokenizer.len()),
                None => prop_assert_eq!(seen, id),
            }
            prop_assert!(!whole_word || label.is_none() || ![0, 101, 102].contains(&id));
        }
        if whole_word {
            let budget = (ids.len().max(max_text_len) as f64 * probability).round_ties_even().max(1.0);
            prop_assert!(masked.labels.iter().flatten().count() as f64 <= budget);
        }
    }
}

/// Returns the ids of `text`, and `count` maskings with different generators.
fn draw_masks(text: &str, whole_word: bool, count: u64) -> (Vec<u32>, Vec<MaskedText>) {
    let tokenizer = bert();
    let config = MaskingConfig {
        whole_word,
        probability: 0.15,
        max_text_len: 40,
    };
    let ids = tokenizer.encode(text, 40);
    let draw = |i| mask_tokens(&tokenizer, &ids, &config, &mut ChaCha8Rng::seed_from_u64(7_000 + i));
    let all = (0..count).map(draw).collect();
    (ids, all)
}

/// The number of tokens chosen in each text.
fn counts(texts: &[MaskedText]) -> Vec<usize> {
    texts.iter().map(|t| t.labels.iter().flatten().count()).collect()
}

/// Asserts that a share of `n` trials is the expected one within four and a half standard errors.
fn assert_share(share: f64, expected: f64, n: usize) {
    let bound = 4.5 * (expected * (1.0 - expected) / n as f64).sqrt();
    assert!((share - expected).abs() < bound, "{share} is not {expected} ± {bound}");
}

#[test]
fn padding_shares_the_budget_of_whole_words() {
    let (ids, texts) = draw_masks("a dog and a cat sit on the red table", true, 20_000);
    assert_eq!(ids.len(), 12); // ten words of one piece and 28 padding tokens, from which six are drawn
    let chosen = counts(&texts);
    let binomial = |n: u64, k: u64| (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
    for (k, share) in (0..=6).map(|k| (k, binomial(10, k) * binomial(28, 6 - k) / binomial(38, 6))) {
        let count = chosen.iter().filter(|&&c| c as u64 == k).count();
        assert_share(count as f64 / texts.len() as f64, share, texts.len());
    }
    let none = chosen.iter().filter(|&&c| c == 0).count() as f64 / texts.len() as f64;
    assert!((none - 0.136).abs() < 0.011, "{none}");
    // All words are chosen equally often.
    for position in 1..11 {
        let count = texts.iter().filter(|t| t.labels[position].is_some()).count();
        assert_share(count as f64 / texts.len() as f64, 6.0 / 38.0, texts.len());
    }
}

#[test]
fn words_are_masked_whole_and_skipped_if_larger_than_the_budget() {
    // A word of eight pieces exceeds the budget of six; a word of two pieces does not.
    let (ids, texts) = draw_masks("antidisestablishmentarianism surfboard", true, 2_000);
    let tokenizer = bert();
    assert_eq!(
        tokenizer.tokens(&ids)[1..11]
            .iter()
            .filter(|t| t.starts_with("##"))
            .count(),
        8
    );
    for text in &texts {
        assert!(text.labels[1..9].iter().all(Option::is_none));
        assert_eq!(text.labels[9].is_some(), text.labels[10].is_some());
    }
    assert!(texts.iter().any(|t| t.labels[9].is_some()));
}

#[test]
fn budget_is_rounded_half_to_even() {
    let tokenizer = bert();
    let ids = tokenizer.encode(&"dog ".repeat(38), 40);
    for (probability, budget) in [(0.15, 6), (0.0, 1), (0.0625, 2), (0.0875, 4), (0.1125, 4), (1.0, 38)] {
        let config = MaskingConfig {
            whole_word: true,
            probability,
            max_text_len: 40,
        };
        let masked = mask_tokens(&tokenizer, &ids, &config, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(masked.labels.iter().flatten().count(), budget, "{probability}");
    }
}

#[test]
fn tokens_are_chosen_independently() {
    let (ids, texts) = draw_masks("a surfboard on [UNK] the wave", false, 20_000);
    let n = texts.len();
    for position in 1..ids.len() - 1 {
        let count = texts.iter().filter(|t| t.labels[position].is_some()).count();
        assert_share(count as f64 / n as f64, 0.15, n);
    }
    let both = texts
        .iter()
        .filter(|t| t.labels[2].is_some() && t.labels[3].is_some())
        .count();
    assert_share(both as f64 / n as f64, 0.15 * 0.15, n);
    let none = counts(&texts).iter().filter(|&&c| c == 0).count();
    assert_share(none as f64 / n as f64, 0.85f64.powi(ids.len() as i32 - 2), n);
}

#[test]
fn special_tokens_are_excluded_as_in_the_original() {
    let tokenizer = bert();
    let mut literals = 0;
    for directory in vlct_golden::directories("text") {
        let cases = vlct_golden::json(directory.join("wordpiece.json"));
        for case in cases.as_array().unwrap() {
            let special: Vec<bool> = case["special_tokens_mask"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| *m == 1)
                .collect();
            let ids = tokenizer.encode(case["text"].as_str().unwrap(), special.len());
            let specials = [0, 100, 101, 102, 103];
            literals += ids[1..ids.len() - 1].iter().filter(|id| specials.contains(id)).count();
            for whole_word in [false, true] {
                // A probability of 1 chooses every token that may be chosen.
                let config = MaskingConfig {
                    whole_word,
                    probability: 1.0,
                    max_text_len: special.len(),
                };
                let masked = mask_tokens(&tokenizer, &ids, &config, &mut ChaCha8Rng::seed_from_u64(3));
                for (position, (&id, label)) in ids.iter().zip(&masked.labels).enumerate() {
                    let is_excluded = if whole_word {
                        [0, 101, 102].contains(&id)
                    } else {
                        special[position]
                    };
                    assert_eq!(label.is_none(), is_excluded, "{id} at {position} of {}", case["text"]);
                }
            }
        }
    }
    assert!(literals > 0, "no recorded text contains the name of a special token");
}

#[test]
fn of_chosen_tokens_80_percent_are_masked_10_random_and_10_kept() {
    for whole_word in [true, false] {
        let (ids, texts) = draw_masks("a dog and a cat sit on the red table", whole_word, 20_000);
        let chosen: Vec<(u32, u32)> = texts
            .iter()
            .flat_map(|t| ids.iter().zip(&t.ids).zip(&t.labels))
            .filter(|(_, label)| label.is_some())
            .map(|((&id, &seen), _)| (id, seen))
            .collect();
        let share = |count: usize| count as f64 / chosen.len() as f64;
        assert_share(
            share(chosen.iter().filter(|(_, seen)| *seen == 103).count()),
            0.8,
            chosen.len(),
        );
        assert_share(
            share(chosen.iter().filter(|(id, seen)| seen == id).count()),
            0.1,
            chosen.len(),
        );
        let random: Vec<u32> = chosen
            .iter()
            .filter(|(id, seen)| seen != id && *seen != 103)
            .map(|c| c.1)
            .collect();
        assert_share(share(random.len()), 0.1, chosen.len());
        // Random tokens are uniform over the whole vocabulary.
        let lower = random.iter().filter(|&&id| id < 30_522 / 2).count();
        assert_share(lower as f64 / random.len() as f64, 0.5, random.len());
        assert!(random.iter().max() > Some(&30_000) && random.iter().min() < Some(&500));
    }
}
