//! Recalls of a split.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vlct_data::datasets::{Dataset, TableDataset};
use vlct_model::Vlc;
use vlct_tensor::Collectives;

use super::images::DatasetImages;
use super::plan::Selection;
use super::recalls::Ranks;
use super::run::{Event, Scoring, Stage};
use super::scorer::PairScorer;
use super::store::{Found, ScoreStore};
use super::two_stage::{Candidates, candidate_patches};
use crate::error::{Result, TaskError};
use crate::gather;
use crate::inputs::InputSpec;
use crate::metrics::Report;

/// Beginning of the names of the directories of resumable scores; the rest is a part of the fingerprint.
const DIRECTORY_PREFIX: &str = "scores_";

/// Minimum number of images and of captions, so that recall at 10 is defined.
const MIN_CANDIDATES: usize = 10;

/// The place of scores while a split is scored.
#[derive(Clone, Copy, Debug)]
pub enum ScorePlace<'a> {
    /// An unnamed file in this directory.
    Temporary(&'a Path),
    /// Files in a new directory `scores_{fingerprint}` of this directory, from which an interrupted scoring continues.
    Resumable(&'a Path),
    /// The scores are stored by rank 0, and this is another rank.
    OtherRank,
}

impl<'a> ScorePlace<'a> {
    /// Returns the directory of the scores; `None` if another rank stores them.
    pub fn directory(self) -> Option<&'a Path> {
        match self {
            Self::Temporary(directory) | Self::Resumable(directory) => Some(directory),
            Self::OtherRank => None,
        }
    }
}

/// The stored scores of an evaluation.
pub struct StoredScores {
    stores: Vec<ScoreStore>,
}

impl StoredScores {
    /// Removes the files.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if a file cannot be removed.
    pub fn remove(self) -> Result<()> {
        self.stores.into_iter().try_for_each(ScoreStore::remove)
    }
}

/// Computes the recalls of a split from the scores of all its images with all its captions.
///
/// An evaluation holds the captions' token ids in memory, and a few values per image and caption.
pub struct RecallEvaluator {
    data: Arc<TableDataset>,
    inputs: Arc<InputSpec>,
    images: DatasetImages,
    count: usize,
    rerank: Option<usize>,
}

/// The extent of a retrieval evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallSpec {
    /// Number of images that are scored, the first ones of the split, with their captions; 0 means all.
    pub limit: usize,
    /// Number of candidates of each query, at least 10, of which two-stage retrieval computes the exact score; `None` means that the exact
    /// score of all pairs is computed.
    pub rerank: Option<usize>,
}

impl RecallEvaluator {
    /// Makes an evaluator of images of `data`, with their captions. `threads` threads read the images.
    ///
    /// # Errors
    /// Returns [`TaskError::TooFewImages`] if there are fewer than 10 images.
    pub fn new(data: Arc<TableDataset>, inputs: Arc<InputSpec>, threads: usize, spec: RecallSpec) -> Result<Self> {
        let count = match spec.limit {
            0 => data.rows(),
            limit => data.rows().min(limit),
        };
        if count < MIN_CANDIDATES {
            return Err(TaskError::TooFewImages(count));
        }
        Ok(Self {
            images: DatasetImages::new(&data, Arc::clone(&inputs), threads),
            data,
            inputs,
            count,
            rerank: spec.rerank,
        })
    }

    /// Computes the recalls, under their metric names. Returns `None` if `stop` is set before the end. With several ranks, all compute scores,
    /// rank 0 stores them, and all return the same recalls.
    ///
    /// # Errors
    /// Returns [`TaskError::TooFewCaptions`] if the images have fewer than 10 captions, an error that names file and row if an image cannot
    /// be read, [`TaskError::ScoresInUse`] if another process computes the same scores, [`TaskError::Io`] if the scores cannot be
    /// stored, and errors of other ranks.
    pub fn recalls(
        &self,
        model: &Vlc,
        place: ScorePlace,
        collectives: &dyn Collectives,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Option<(Report, StoredScores)>> {
        let (texts, owner) = self.captions()?;
        let mut stores = Stores::new(place, collectives);
        match self.rerank {
            None => self.exact_recalls(model, (&texts, &owner), &mut stores, stop, watch),
            Some(k) => self.two_stage_recalls(model, (&texts, &owner), k, &mut stores, stop, watch),
        }
    }

    fn exact_recalls(
        &self,
        model: &Vlc,
        (texts, owner): (&[Vec<u32>], &[usize]),
        stores: &mut Stores,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Option<(Report, StoredScores)>> {
        let (scorer, collectives) = (PairScorer::new(model), stores.collectives);
        let (stage, all) = (Stage::Exact, Selection::All);
        let scoring = Scoring::new(stage, scorer, self.count, texts, &self.images, all, collectives);
        let (mut store, found) = stores.open(&scoring, "all")?;
        if !scoring.run(&mut store, found, stop, watch, &mut |_| ())? {
            return Ok(None);
        }
        let recalls = stores.on_rank_0(|| {
            let mut ranks = Ranks::new(owner, self.count);
            scoring.for_each_row(&store, &mut |image, row| {
                ranks.read_own(image, row.iter().copied().enumerate());
            })?;
            scoring.for_each_row(&store, &mut |image, row| {
                ranks.count_captions(image, row.iter().copied().enumerate());
                ranks.rank_image(image, row, |text| text);
            })?;
            Ok(ranks.recalls())
        })?;
        let stores = vec![store];
        Ok(Some((recalls.report("recalls"), StoredScores { stores })))
    }

    /// Computes recalls of two-stage retrieval: the best `k` candidates of each query by a cheaper score are ranked by the exact score, before
    /// all other candidates.
    fn two_stage_recalls(
        &self,
        model: &Vlc,
        (texts, owner): (&[Vec<u32>], &[usize]),
        k: usize,
        stores: &mut Stores,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Option<(Report, StoredScores)>> {
        let (stage, scorer) = (Stage::Candidates, PairScorer::with_patches(model, candidate_patches));
        let (all, collectives) = (Selection::All, stores.collectives);
        let first = Scoring::new(stage, scorer, self.count, texts, &self.images, all, collectives);
        let (mut cheap, found) = stores.open(&first, "all")?;
        if !first.run(&mut cheap, found, stop, watch, &mut |_| ())? {
            return Ok(None);
        }
        let candidates = stores.on_rank_0(|| Candidates::select(&first, &cheap, k))?;
        let (stage, scorer, selection) = (Stage::Rerank, PairScorer::new(model), candidates.selection());
        let second = Scoring::new(stage, scorer, self.count, texts, &self.images, selection, collectives);
        let (mut exact, found) = stores.open(&second, &format!("candidates {k}"))?;
        if !second.run(&mut exact, found, stop, watch, &mut |_| ())? {
            return Ok(None);
        }
        let recalls = stores.on_rank_0(|| {
            let mut ranks = Ranks::new(owner, self.count);
            second.for_each_row(&exact, &mut |image, row| {
                let pairs = second.plan.texts_of(image).zip(row.iter().copied());
                ranks.read_own(
                    image,
                    pairs.filter(|(text, _)| candidates.is_candidate_image(image, *text)),
                );
            })?;
            second.for_each_row(&exact, &mut |image, row| {
                let pairs = || second.plan.texts_of(image).zip(row.iter().copied());
                ranks.count_captions(
                    image,
                    pairs().filter(|(text, _)| candidates.is_candidate_image(image, *text)),
                );
                let of_image = &candidates.of_images[image];
                let is_candidate = |text: usize| of_image.binary_search(&(text as u32)).is_ok();
                let scores: Vec<f32> = pairs()
                    .filter(|(text, _)| is_candidate(*text))
                    .map(|(_, score)| score)
                    .collect();
                ranks.rank_image(image, &scores, |i| of_image[i] as usize);
            })?;
            Ok(ranks.recalls())
        })?;
        let stores = vec![cheap, exact];
        Ok(Some((recalls.report("recalls_two_stage"), StoredScores { stores })))
    }

    /// Returns the token ids of all captions, and the index of the image of each.
    fn captions(&self) -> Result<(Vec<Vec<u32>>, Vec<usize>)> {
        let (mut texts, mut owner) = (Vec::new(), Vec::new());
        for image in 0..self.count {
            for item in self.data.items_of(image)? {
                let text = self.data.text(item)?.unwrap_or_default();
                texts.push(self.inputs.tokenizer.encode(&text, self.inputs.max_text_len));
                owner.push(image);
            }
        }
        if texts.len() < MIN_CANDIDATES {
            return Err(TaskError::TooFewCaptions(texts.len()));
        }
        Ok((texts, owner))
    }
}

/// The places of the stores of an evaluation.
struct Stores<'a> {
    place: ScorePlace<'a>,
    collectives: &'a dyn Collectives,
    /// Names of the directories that were opened.
    opened: Vec<String>,
}

impl<'a> Stores<'a> {
    fn new(place: ScorePlace<'a>, collectives: &'a dyn Collectives) -> Self {
        Self {
            place,
            collectives,
            opened: Vec::new(),
        }
    }

    /// Returns the result of `work` on rank 0, which has the scores, to all ranks.
    fn on_rank_0<T: Serialize + DeserializeOwned>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = match self.collectives.rank() {
            0 => Some(work()?),
            _ => None,
        };
        Ok(gather::from_first(self.collectives, result)?)
    }

    /// Opens the store of a scoring. `selection` describes the selected pairs.
    fn open(&mut self, scoring: &Scoring, selection: &str) -> Result<(ScoreStore, Found)> {
        let opened = match self.place {
            ScorePlace::Temporary(directory) => Some((ScoreStore::temporary(directory)?, Found::Nothing)),
            ScorePlace::Resumable(directory) => Some(self.open_files(directory, scoring, selection)?),
            ScorePlace::OtherRank => None,
        };
        let stored = opened.as_ref().map(|(store, _)| store.len());
        let stored = gather::from_first(self.collectives, stored)?;
        Ok(opened.unwrap_or_else(|| (ScoreStore::of_other_rank(stored), Found::Nothing)))
    }

    fn open_files(&mut self, directory: &Path, scoring: &Scoring, selection: &str) -> Result<(ScoreStore, Found)> {
        let fingerprint = scoring.fingerprint(selection)?;
        let name = format!("{DIRECTORY_PREFIX}{}", &fingerprint[..16]);
        let (store, found) = ScoreStore::open(&directory.join(&name), &fingerprint, scoring.plan.pairs())?;
        self.opened.push(name);
        let found = match found {
            Found::Nothing if self.has_others(directory) => Found::Other,
            found => found,
        };
        Ok((store, found))
    }

    /// Whether a directory has scores of other evaluations.
    fn has_others(&self, directory: &Path) -> bool {
        let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .any(|name| name.starts_with(DIRECTORY_PREFIX) && !self.opened.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::recalls::top_k;
    use super::super::testing::{dataset, inputs, small_model};
    use super::super::{Recalls, score_image};
    use super::*;
    use crate::batch::planes;
    use std::cell::Cell;
    use std::sync::atomic::Ordering;
    use vlct_data::loader::Share;
    use vlct_tensor::Planes;
    use vlct_tensor::collectives::Single;

    fn evaluator(images: usize, limit: usize) -> (tempfile::TempDir, RecallEvaluator) {
        two_stage_evaluator(images, limit, None)
    }

    fn two_stage_evaluator(images: usize, limit: usize, rerank: Option<usize>) -> (tempfile::TempDir, RecallEvaluator) {
        let (directory, data) = dataset(images);
        (
            directory,
            RecallEvaluator::new(data, inputs(), 1, RecallSpec { limit, rerank }).unwrap(),
        )
    }

    /// Scores pair by pair.
    fn reference(evaluator: &RecallEvaluator, model: &Vlc) -> Report {
        let (texts, owner) = evaluator.captions().unwrap();
        let images: Vec<_> = evaluator
            .images
            .pixels(0, Share::ALL)
            .unwrap()
            .take(evaluator.count)
            .map(Result::unwrap)
            .collect();
        let scores: Vec<f32> = images
            .iter()
            .flat_map(|image| score_image(model, planes(image), &texts))
            .collect();
        Recalls::from_scores(&scores, &owner).report("recalls")
    }

    #[test]
    fn recalls_are_those_of_scoring_pair_by_pair() {
        for limit in [0, 12] {
            let (_files, evaluator) = evaluator(40, limit);
            assert_eq!(evaluator.count, if limit == 0 { 40 } else { 12 });
            let model = small_model(1);
            let directory = tempfile::tempdir().unwrap();
            let mut events = Vec::new();
            let place = ScorePlace::Temporary(directory.path());
            let no_stop = AtomicBool::new(false);
            let got = evaluator
                .recalls(&model, place, &Single, &no_stop, &mut |event| events.push(event))
                .unwrap()
                .unwrap();
            assert_eq!(got.0, reference(&evaluator, &model));
            let count = evaluator.count;
            let pairs = 2 * (count * count) as u64;
            let found = Found::Nothing;
            let stage = Stage::Exact;
            assert_eq!(
                events[0],
                Event::Started {
                    stage,
                    images: count,
                    texts: 2 * count,
                    pairs,
                    found
                }
            );
            assert_eq!(events.last(), Some(&Event::Progress { scored: pairs, pairs }));
        }
    }

    #[test]
    fn two_stage_recalls_rank_the_candidates_by_the_exact_score() {
        let model = small_model(1);
        let no_stop = AtomicBool::new(false);
        let recalls = |rerank: usize| {
            let (_files, evaluator) = two_stage_evaluator(40, 0, Some(rerank));
            let directory = tempfile::tempdir().unwrap();
            let (mut stages, place) = (Vec::new(), ScorePlace::Temporary(directory.path()));
            let recalls = evaluator.recalls(&model, place, &Single, &no_stop, &mut |event| {
                if let Event::Started { stage, pairs, .. } = event {
                    stages.push((stage, pairs));
                }
            });
            (recalls.unwrap().unwrap().0, stages)
        };
        let (_files, exact) = evaluator(40, 0);
        let want = reference(&exact, &model);
        // With all candidates, the recalls are the exact ones.
        let (report, stages) = recalls(100);
        assert_eq!(stages, [(Stage::Candidates, 3200), (Stage::Rerank, 3200)]);
        let values = |report: &Report| report.values.iter().map(|(_, value)| *value).collect::<Vec<f64>>();
        assert_eq!((values(&report), &report.selection), (values(&want), &want.selection));
        assert!(
            report
                .values
                .iter()
                .all(|(name, _)| name.starts_with("recalls_two_stage/")),
            "{report:?}"
        );
        // With a few candidates, a query finds its own only if it is among them.
        let (report, stages) = recalls(10);
        let (texts, owner) = exact.captions().unwrap();
        let images: Vec<_> = exact
            .images
            .pixels(0, Share::ALL)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let views: Vec<Planes> = images.iter().map(planes).collect();
        let score = |scorer: PairScorer| {
            let embedded = scorer.embed_images(&views);
            scorer.score_all(&embedded, &texts, &no_stop, &mut |_| ()).unwrap()
        };
        let cheap = score(PairScorer::with_patches(&model, candidate_patches));
        let exact = score(PairScorer::new(&model));
        let restrict = |queries: Vec<Vec<usize>>| -> (Vec<f32>, usize) {
            let mut scores = vec![f32::NEG_INFINITY; cheap.len()];
            let mut selected = 0;
            for pairs in queries {
                let ranked = top_k(&pairs.iter().map(|pair| cheap[*pair]).collect::<Vec<f32>>(), 10);
                for candidate in ranked {
                    scores[pairs[candidate]] = exact[pairs[candidate]];
                    selected += 1;
                }
            }
            (scores, selected)
        };
        let (of_images, _) = restrict((0..40).map(|i| (0..80).map(|t| i * 80 + t).collect()).collect());
        let (of_captions, _) = restrict((0..80).map(|t| (0..40).map(|i| i * 80 + t).collect()).collect());
        let union = of_images
            .iter()
            .zip(&of_captions)
            .filter(|(a, b)| a.is_finite() || b.is_finite())
            .count();
        assert_eq!(stages[1], (Stage::Rerank, union as u64));
        let (image_recalls, text_recalls) = (
            Recalls::from_scores(&of_captions, &owner),
            Recalls::from_scores(&of_images, &owner),
        );
        let want = Recalls {
            tr_r1: text_recalls.tr_r1,
            tr_r5: text_recalls.tr_r5,
            tr_r10: text_recalls.tr_r10,
            ..image_recalls
        };
        assert_eq!(report, want.report("recalls_two_stage"));
    }

    #[test]
    fn interrupted_scoring_continues_to_the_same_scores() {
        for rerank in [None, Some(12)] {
            check_interrupted_scoring(rerank);
        }
    }

    fn check_interrupted_scoring(rerank: Option<usize>) {
        let (_files, evaluator) = two_stage_evaluator(40, 0, rerank);
        let model = small_model(1);
        let scores_of = |directory: &Path| -> Vec<Vec<u8>> {
            let entries = std::fs::read_dir(directory).unwrap();
            let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
            files.sort();
            assert_eq!(files.len(), if rerank.is_some() { 2 } else { 1 }, "{files:?}");
            let scores = files.iter().map(|file| std::fs::read(file.join("scores.f32")));
            scores.map(Result::unwrap).collect()
        };
        let run = |directory: &Path, passes: usize| {
            let stop = AtomicBool::new(false);
            let (left, started) = (Cell::new(passes), Cell::new(Found::Nothing));
            let recalled = evaluator
                .recalls(
                    &model,
                    ScorePlace::Resumable(directory),
                    &Single,
                    &stop,
                    &mut |event| match event {
                        Event::Started { found, .. } => started.set(found),
                        Event::Progress { .. } => {
                            left.set(left.get() - 1);
                            stop.store(left.get() == 0, Ordering::Relaxed);
                        }
                        Event::Estimate { .. } => {}
                    },
                )
                .unwrap();
            (recalled, started.get())
        };
        let whole = tempfile::tempdir().unwrap();
        let (want, _) = run(whole.path(), 1000);
        let interrupted = tempfile::tempdir().unwrap();
        let mut runs = 0;
        let (got, found) = loop {
            let result = run(interrupted.path(), 3);
            runs += 1;
            if let (Some(recalled), found) = result {
                break (recalled, found);
            }
        };
        assert!(runs > 3 && matches!(found, Found::Scores(_)), "{runs} {found:?}");
        let want = want.unwrap();
        assert_eq!(got.0, want.0);
        assert_eq!(scores_of(interrupted.path()), scores_of(whole.path()));
        got.1.remove().unwrap();
        assert_eq!(std::fs::read_dir(interrupted.path()).unwrap().count(), 0);
        // Scores of another model are not used.
        drop(want);
        let stop = AtomicBool::new(true);
        let (other, mut founds) = (small_model(2), Vec::new());
        let stopped = evaluator.recalls(
            &other,
            ScorePlace::Resumable(whole.path()),
            &Single,
            &stop,
            &mut |event| {
                if let Event::Started { found, .. } = event {
                    founds.push(found);
                }
            },
        );
        assert!(stopped.unwrap().is_none());
        assert_eq!(founds, [Found::Other]);
        // Finished scores are read, not computed.
        let (again, found) = run(whole.path(), 1);
        assert!(
            matches!(found, Found::Scores(n) if rerank.is_some() || n == 2 * 40 * 40),
            "{found:?}"
        );
        assert!(again.is_some());
    }

    #[test]
    fn scores_of_other_weights_texts_or_images_are_not_used() {
        let fingerprint = |evaluator: &RecallEvaluator, model: &Vlc| {
            let (texts, _) = evaluator.captions().unwrap();
            let scorer = PairScorer::new(model);
            Scoring::new(
                Stage::Exact,
                scorer,
                evaluator.count,
                &texts,
                &evaluator.images,
                Selection::All,
                &Single,
            )
            .fingerprint("")
            .unwrap()
        };
        let (_files, first) = evaluator(20, 0);
        let (_files, limited) = evaluator(20, 15);
        let (_files, larger) = evaluator(21, 0);
        let mut all = vec![
            fingerprint(&first, &small_model(1)),
            fingerprint(&first, &small_model(2)),
            fingerprint(&limited, &small_model(1)),
            fingerprint(&larger, &small_model(1)),
        ];
        let mut changed = inputs().as_ref().clone();
        changed.max_text_len = 6;
        let shorter = RecallEvaluator::new(first.data.clone(), Arc::new(changed), 1, RecallSpec::default()).unwrap();
        all.push(fingerprint(&shorter, &small_model(1)));
        let mut changed = inputs().as_ref().clone();
        changed.eval_transform = vlct_image::TransformKind::Mae.into();
        let cropped = RecallEvaluator::new(first.data.clone(), Arc::new(changed), 1, RecallSpec::default()).unwrap();
        all.push(fingerprint(&cropped, &small_model(1)));
        assert_eq!(fingerprint(&first, &small_model(1)), all[0]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn few_images_or_captions_are_an_error() {
        let (_files, data) = dataset(9);
        let error = RecallEvaluator::new(data, inputs(), 1, RecallSpec::default())
            .err()
            .unwrap();
        assert!(matches!(error, TaskError::TooFewImages(9)), "{error}");
        let (_files, data) = dataset(20);
        let spec = RecallSpec { limit: 4, rerank: None };
        let error = RecallEvaluator::new(data, inputs(), 1, spec).err().unwrap();
        assert!(matches!(error, TaskError::TooFewImages(4)), "{error}");
    }
}
