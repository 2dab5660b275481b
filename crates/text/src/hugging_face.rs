//! Tokenizers of Hugging Face: `vocab.txt` or `tokenizer.json`, with the settings in `tokenizer_config.json`.

use std::path::Path;

use serde_json::Value;
use vlct_util::read_at_most;

use crate::{Result, TextError, Vocabulary};

/// The vocabulary, a token a line.
const VOCABULARY: &str = "vocab.txt";
/// The tokenizer with its vocabulary, which version 5 of transformers writes alone.
const TOKENIZER: &str = "tokenizer.json";
/// The settings.
const CONFIG: &str = "tokenizer_config.json";
/// Maximum size of a JSON file in bytes; that of BERT's tokenizer is below a megabyte.
const MAX_BYTES: u64 = 64 << 20;

/// The settings of the tokenizer in a directory.
pub(crate) struct Settings {
    pub vocabulary: Vocabulary,
    pub lower_case: bool,
    /// Maximum number of tokens of a text, if it is stated.
    pub max_len: Option<usize>,
}

impl Settings {
    /// Reads the tokenizer in a directory; `None` if it has neither a `vocab.txt` nor a `tokenizer.json`. Text is lower-cased as the
    /// settings say or, if they do not say it, if the vocabulary has no upper-case letter outside tokens in brackets.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, or is not that of a WordPiece tokenizer.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let settings = json(&directory.join(CONFIG))?.unwrap_or_default();
        check(&settings).map_err(|reason| TextError::format(&directory.join(CONFIG), reason))?;
        let (vocabulary, tokenizer) = (directory.join(VOCABULARY), directory.join(TOKENIZER));
        let whole = json(&tokenizer)?;
        let vocabulary = match &whole {
            Some(whole) => {
                let tokens = tokens_of(whole).map_err(|reason| TextError::format(&tokenizer, reason))?;
                let tokens = Vocabulary::from_tokens(&tokenizer, &tokens)?;
                if vocabulary.is_file() {
                    compare(&tokens, &Vocabulary::open(&vocabulary)?)
                        .map_err(|reason| TextError::format(&vocabulary, reason))?;
                }
                tokens
            }
            None if vocabulary.is_file() => Vocabulary::open(&vocabulary)?,
            None => return Ok(None),
        };
        let in_normalizer = || whole.as_ref()?.get("normalizer")?.get("lowercase")?.as_bool();
        let stated = settings
            .get("do_lower_case")
            .and_then(Value::as_bool)
            .or_else(in_normalizer);
        let lower_case = stated.unwrap_or_else(|| !vocabulary.has_upper_case());
        let max_len = settings.get("model_max_length").and_then(Value::as_u64);
        Ok(Some(Self {
            vocabulary,
            lower_case,
            max_len: max_len.and_then(|len| usize::try_from(len).ok()).filter(|len| *len > 0),
        }))
    }
}

/// Checks that the settings are those of BERT's tokenizer.
///
/// # Errors
/// Returns a sentence about the setting that is invalid or not supported.
fn check(settings: &Value) -> std::result::Result<(), String> {
    let stated = |key: &str| settings.get(key).filter(|value| !value.is_null());
    if let Some(value) = stated("do_lower_case").filter(|value| !value.is_boolean()) {
        return Err(format!("do_lower_case is {value} instead of true or false"));
    }
    let lower_case = stated("do_lower_case").and_then(Value::as_bool);
    if let (Some(strips), Some(lower_case)) = (stated("strip_accents"), lower_case)
        && *strips != lower_case
    {
        return Err(format!(
            "strip_accents is {strips}, which is supported only if do_lower_case is the same"
        ));
    }
    if let Some(value) = stated("tokenize_chinese_chars").filter(|value| **value != true) {
        return Err(format!("tokenize_chinese_chars is {value}, which is not supported"));
    }
    for (key, token) in [
        ("unk_token", "[UNK]"),
        ("cls_token", "[CLS]"),
        ("sep_token", "[SEP]"),
        ("mask_token", "[MASK]"),
    ] {
        // A token can be a dictionary with its text.
        let text = stated(key).map(|value| value.get("content").unwrap_or(value));
        if let Some(text) = text.filter(|text| **text != token) {
            return Err(format!("{key} is {text}, which is not supported: only {token} is"));
        }
    }
    Ok(())
}

/// Compares the vocabularies in `tokenizer.json` and `vocab.txt`.
///
/// # Errors
/// Returns a sentence about the first difference.
fn compare(tokenizer: &Vocabulary, vocabulary: &Vocabulary) -> std::result::Result<(), String> {
    let pairs = vocabulary.iter().zip(tokenizer.iter()).enumerate();
    if let Some((id, (here, there))) = pairs.into_iter().find(|(_, (here, there))| here != there) {
        return Err(format!(
            "token {id} is {here:?}, but {there:?} in {TOKENIZER} beside it: remove the file that is not the model's"
        ));
    }
    match (vocabulary.len(), tokenizer.len()) {
        (here, there) if here != there => Err(format!(
            "there are {here} tokens, but {there} in {TOKENIZER} beside it: remove the file that is not the model's"
        )),
        _ => Ok(()),
    }
}

/// Reads a JSON file; `None` if it does not exist.
fn json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let content = read_at_most(path, MAX_BYTES, "a tokenizer")?;
    match serde_json::from_slice(&content) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(TextError::format(path, format!("it is not valid JSON: {error}"))),
    }
}

/// Returns the tokens of a WordPiece tokenizer by id.
///
/// # Errors
/// Returns a sentence about what is wrong.
fn tokens_of(tokenizer: &Value) -> Result<Vec<String>, String> {
    let model = tokenizer.get("model").unwrap_or(&Value::Null);
    if let Some(kind) = model
        .get("type")
        .and_then(Value::as_str)
        .filter(|kind| *kind != "WordPiece")
    {
        return Err(format!(
            "the tokenizer is a {kind} tokenizer, which is not supported: only WordPiece is"
        ));
    }
    let Some(ids) = model.get("vocab").and_then(Value::as_object) else {
        return Err("the tokenizer has no vocabulary".into());
    };
    let mut tokens = vec![None; ids.len()];
    for (token, id) in ids {
        let place = id.as_u64().and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
        let place =
            place.ok_or_else(|| format!("token {token:?} has the id {id}, but there are {} tokens", ids.len()))?;
        *place = Some(token.clone());
    }
    let tokens: Option<Vec<String>> = tokens.into_iter().collect();
    tokens.ok_or_else(|| "two tokens have the same id".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn settings_decide_whether_text_is_lower_cased() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(Settings::read(path).unwrap().is_none());
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"];
        std::fs::write(path.join(VOCABULARY), tokens.join("\n")).unwrap();
        let read = || Settings::read(path).unwrap().unwrap();
        assert!(read().lower_case && read().max_len.is_none());
        std::fs::write(path.join(CONFIG), r#"{"do_lower_case": false, "model_max_length": 40}"#).unwrap();
        assert!(!read().lower_case);
        assert_eq!(read().max_len, Some(40));
        std::fs::remove_file(path.join(VOCABULARY)).unwrap();
        std::fs::remove_file(path.join(CONFIG)).unwrap();
        let vocabulary: serde_json::Map<String, Value> =
            (0..).zip(tokens).map(|(id, token)| (token.into(), id.into())).collect();
        let whole = serde_json::json!({"model": {"type": "WordPiece", "vocab": vocabulary}, "normalizer": {"lowercase": false}});
        std::fs::write(path.join(TOKENIZER), whole.to_string()).unwrap();
        assert!(!read().lower_case);
        assert!(read().vocabulary.iter().eq(tokens));
        for (content, part) in [
            (r#"{"do_lower_case": "no"}"#, "do_lower_case is"),
            (
                r#"{"do_lower_case": true, "strip_accents": false}"#,
                "strip_accents is false",
            ),
            (r#"{"tokenize_chinese_chars": false}"#, "tokenize_chinese_chars"),
            (r#"{"unk_token": {"content": "<unk>"}}"#, "unk_token"),
        ] {
            std::fs::write(path.join(CONFIG), content).unwrap();
            let error = Settings::read(path).err().expect("an error").to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
        std::fs::remove_file(path.join(CONFIG)).unwrap();
        let mut others = tokens;
        others[5] = "b";
        for (tokens, part) in [
            (&others[..], r#"token 5 is "b", but "a" in tokenizer.json"#),
            (&tokens[..5], "there are 5 tokens, but 6 in"),
        ] {
            std::fs::write(path.join(VOCABULARY), tokens.join("\n")).unwrap();
            let error = Settings::read(path).err().expect("an error").to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
        std::fs::remove_file(path.join(VOCABULARY)).unwrap();
        for (content, part) in [
            ("{", "not valid JSON"),
            ("{}", "no vocabulary"),
            (r#"{"model": {"type": "BPE", "vocab": {}}}"#, "BPE"),
        ] {
            std::fs::write(path.join(TOKENIZER), content).unwrap();
            let error = Settings::read(path).err().expect("an error").to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_vocabulary_is_read_or_rejected(ids in prop::collection::hash_map("[a-z]{0,3}", 0u64..6, 0..6)) {
            let is_whole = (0..ids.len() as u64).all(|id| ids.values().any(|other| *other == id));
            let tokens = tokens_of(&serde_json::json!({"model": {"vocab": ids}}));
            prop_assert_eq!(tokens.is_ok(), is_whole);
            for (id, token) in tokens.unwrap_or_default().iter().enumerate() {
                prop_assert_eq!(ids[token], id as u64);
            }
        }
    }
}
