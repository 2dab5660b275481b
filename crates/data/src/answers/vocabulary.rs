//! Answer vocabularies.

use std::collections::HashMap;

use super::normalize_word;
use vlct_util::text::quoted;

/// An answer is in the vocabulary if it is the majority answer of at least this many questions.
pub const MIN_OCCURRENCES: usize = 9;

/// Maximum number of ids of a vocabulary that is read from a file. VQA v2 has 3,129.
pub const MAX_ANSWERS: usize = 1 << 20;

/// The answers that a model chooses from, with ids from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    answers: Vec<Option<String>>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Builds a vocabulary from the majority answer of each question (`vlc/utils/write_vqa.py`). The vocabulary has the
    /// answers that occur at least [`MIN_OCCURRENCES`] times after [`normalize_word`], with ids in order of first occurrence. The
    /// training questions of VQA v2, followed by its validation questions, give 3,129 answers.
    pub fn of_majority_answers<S: AsRef<str>>(answers: impl IntoIterator<Item = S>) -> Self {
        let normalised = answers.into_iter().map(|answer| normalize_word(answer.as_ref()));
        Self::of_frequent_answers(normalised, MIN_OCCURRENCES)
    }

    /// Like [`Self::of_majority_answers`], but `answers` are already normalised, and `min_occurrences` replaces [`MIN_OCCURRENCES`].
    pub fn of_frequent_answers(answers: impl IntoIterator<Item = String>, min_occurrences: usize) -> Self {
        let mut indices: HashMap<String, usize> = HashMap::new();
        let mut counts: Vec<usize> = Vec::new();
        for answer in answers {
            let index = *indices.entry(answer).or_insert(counts.len());
            match counts.get_mut(index) {
                Some(count) => *count += 1,
                None => counts.push(1),
            }
        }
        let mut frequent: Vec<(usize, String)> = indices
            .into_iter()
            .filter(|(_, index)| counts[*index] >= min_occurrences)
            .map(|(answer, index)| (index, answer))
            .collect();
        frequent.sort_unstable();
        let mut vocabulary = Self::default();
        for (id, (_, answer)) in (0..).zip(frequent) {
            vocabulary.ids.insert(answer.clone(), id);
            vocabulary.answers.push(Some(answer));
        }
        vocabulary
    }

    /// Returns the id of `answer`, which must be normalised; `None` if it is not in the vocabulary.
    pub fn id(&self, answer: &str) -> Option<u32> {
        self.ids.get(answer).copied()
    }

    /// Returns the answer with this id; `None` if the id is too large, or if no question of the prepared files uses the id.
    pub fn answer(&self, id: u32) -> Option<&str> {
        self.answers.get(id as usize)?.as_deref()
    }

    /// The number of ids: the largest id plus 1.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether the vocabulary has no answers.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Adds an answer with its id.
    ///
    /// # Errors
    /// Returns a message if the answer has another id, the id has another answer, or the id is out of range.
    pub(super) fn insert(&mut self, answer: &str, id: i128) -> Result<(), String> {
        let index = usize::try_from(id).ok().filter(|index| *index < MAX_ANSWERS);
        let index = index.ok_or_else(|| {
            let largest = MAX_ANSWERS - 1;
            format!("answer {} has the id {id}; ids are 0 to {largest}", quoted(answer))
        })?;
        let id = index as u32;
        match (self.id(answer), self.answer(id)) {
            (Some(known), _) if known == id => return Ok(()),
            (Some(known), _) => return Err(format!("answer {} has two ids, {known} and {id}", quoted(answer))),
            (None, Some(known)) => {
                let (known, answer) = (quoted(known), quoted(answer));
                return Err(format!("id {id} has two answers, {known} and {answer}"));
            }
            (None, None) => {}
        }
        if index >= self.answers.len() {
            self.answers.resize(index + 1, None);
        }
        self.answers[index] = Some(answer.to_owned());
        self.ids.insert(answer.to_owned(), id);
        Ok(())
    }
}
