//! Answer vocabularies.

use std::collections::HashMap;

use super::normalize_word;
use vlct_util::text::quoted;

/// Fewest questions of which an answer is the most frequent one for it to be in the vocabulary.
pub const MIN_OCCURRENCES: usize = 9;

/// Most ids of a vocabulary that is read from a file. That of VQA v2 has 3,129 answers.
pub const MAX_ANSWERS: usize = 1 << 20;

/// The answers that a model chooses from, with ids from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    answers: Vec<Option<String>>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Builds the vocabulary of the most frequent answers to questions, one for each question: those that, normalised by
    /// [`normalize_word`], occur at least [`MIN_OCCURRENCES`] times, with ids in the order of their first occurrence. The training and
    /// then the validation questions of VQA v2 give 3,129 (`vlc/utils/write_vqa.py`).
    pub fn of_majority_answers<S: AsRef<str>>(answers: impl IntoIterator<Item = S>) -> Self {
        let spelled = answers.into_iter().map(|answer| normalize_word(answer.as_ref()));
        Self::of_frequent_answers(spelled, MIN_OCCURRENCES)
    }

    /// As [`Self::of_majority_answers`], for normalised answers that occur at least `least` times.
    pub fn of_frequent_answers(answers: impl IntoIterator<Item = String>, least: usize) -> Self {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut counts: Vec<usize> = Vec::new();
        for answer in answers {
            let place = *places.entry(answer).or_insert(counts.len());
            match counts.get_mut(place) {
                Some(count) => *count += 1,
                None => counts.push(1),
            }
        }
        let mut frequent: Vec<(usize, String)> = places
            .into_iter()
            .filter(|(_, place)| counts[*place] >= least)
            .map(|(answer, place)| (place, answer))
            .collect();
        frequent.sort_unstable();
        let mut vocabulary = Self::default();
        for (id, (_, answer)) in (0..).zip(frequent) {
            vocabulary.ids.insert(answer.clone(), id);
            vocabulary.answers.push(Some(answer));
        }
        vocabulary
    }

    /// The id of an answer, spelled as in the vocabulary.
    pub fn id(&self, answer: &str) -> Option<u32> {
        self.ids.get(answer).copied()
    }

    /// The answer of an id; none if the id is too large, or if the vocabulary was read from prepared files that do not have it.
    pub fn answer(&self, id: u32) -> Option<&str> {
        self.answers.get(id as usize)?.as_deref()
    }

    /// The number of ids: the largest id plus 1.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there are no answers.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Adds an answer with its id.
    ///
    /// # Errors
    /// Returns a message if the answer has another id, the id has another answer, or the id is out of range.
    pub(super) fn insert(&mut self, answer: &str, id: i128) -> Result<(), String> {
        let place = usize::try_from(id).ok().filter(|place| *place < MAX_ANSWERS);
        let place = place.ok_or_else(|| {
            let largest = MAX_ANSWERS - 1;
            format!("answer {} has the id {id}, possible are 0 to {largest}", quoted(answer))
        })?;
        let id = place as u32;
        match (self.id(answer), self.answer(id)) {
            (Some(known), _) if known == id => return Ok(()),
            (Some(known), _) => return Err(format!("answer {} has two ids, {known} and {id}", quoted(answer))),
            (None, Some(known)) => {
                let (known, answer) = (quoted(known), quoted(answer));
                return Err(format!("id {id} has two answers, {known} and {answer}"));
            }
            (None, None) => {}
        }
        if place >= self.answers.len() {
            self.answers.resize(place + 1, None);
        }
        self.answers[place] = Some(answer.to_owned());
        self.ids.insert(answer.to_owned(), id);
        Ok(())
    }
}
