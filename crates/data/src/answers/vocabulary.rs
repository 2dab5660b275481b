//! Numbered answers.

use std::collections::HashMap;

use super::normalize_word;
use vlct_util::text::quoted;

/// How often the most frequent answer to a question must be the same for it to be in the vocabulary.
pub const MIN_OCCURRENCES: usize = 9;

/// Most numbers that a vocabulary read from a file may use; that of VQA v2 has 3,129 answers.
pub const MAX_ANSWERS: usize = 1 << 20;

/// The answers that a model chooses from, numbered from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    answers: Vec<Option<String>>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// The vocabulary of a dataset: those answers, in the spelling of [`normalize_word`], that are the majority's for at
    /// least [`MIN_OCCURRENCES`] questions, numbered in the order of their first occurrence. All training and then all
    /// validation questions of VQA v2 give 3,129 (`vlc/utils/write_vqa.py`).
    pub fn of_majority_answers<S: AsRef<str>>(answers: impl IntoIterator<Item = S>) -> Self {
        let spelled = answers.into_iter().map(|answer| normalize_word(answer.as_ref()));
        Self::of_frequent_answers(spelled, MIN_OCCURRENCES)
    }

    /// As [`Self::of_majority_answers`], of answers in one spelling, those that are the majority's for at least `least` questions.
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

    /// The number of an answer, spelled as in the vocabulary.
    pub fn id(&self, answer: &str) -> Option<u32> {
        self.ids.get(answer).copied()
    }

    /// The answer of a number; none if the number is too large, or if the vocabulary was taken from prepared files and
    /// these do not have it.
    pub fn answer(&self, id: u32) -> Option<&str> {
        self.answers.get(id as usize)?.as_deref()
    }

    /// How many numbers there are: the largest one and 1.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there are no answers.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Takes in one answer with its number.
    ///
    /// # Errors
    /// What contradicts what: the answer has another number, the number another answer, or it is impossible.
    pub(super) fn insert(&mut self, answer: &str, id: i128) -> Result<(), String> {
        let place = usize::try_from(id).ok().filter(|place| *place < MAX_ANSWERS);
        let place = place.ok_or_else(|| {
            let largest = MAX_ANSWERS - 1;
            format!(
                "answer {} has the number {id}, possible are 0 to {largest}",
                quoted(answer)
            )
        })?;
        let id = place as u32;
        match (self.id(answer), self.answer(id)) {
            (Some(known), _) if known == id => return Ok(()),
            (Some(known), _) => return Err(format!("answer {} has two numbers, {known} and {id}", quoted(answer))),
            (None, Some(known)) => {
                let (known, answer) = (quoted(known), quoted(answer));
                return Err(format!("number {id} stands for two answers, {known} and {answer}"));
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
