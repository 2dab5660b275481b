//! Messages and progress of retrieval scoring.

use std::path::Path;

use log::{info, warn};
use vlct_tasks::scoring::{Event, Found, Stage};

use vlct_logs::{Progress, duration_text};
use vlct_util::text::counted;

/// Logs the events of a scoring and shows its progress.
pub(super) struct ScoringLog<'a> {
    /// The directory of resumable scores.
    directory: &'a Path,
    /// Whether progress is shown.
    shows_progress: bool,
    /// Sentence about the key that restricts the scoring; empty if it is set already.
    hint: &'static str,
    progress: Option<Progress>,
}

impl<'a> ScoringLog<'a> {
    /// `directory` is that of the scores, and `all_images` whether all images of the split are scored.
    pub fn new(directory: &'a Path, shows_progress: bool, all_images: bool) -> Self {
        Self {
            directory,
            shows_progress,
            hint: if all_images {
                " (recall_limit=N scores fewer images)"
            } else {
                ""
            },
            progress: None,
        }
    }

    /// Handles an event.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Started {
                stage,
                images,
                texts,
                pairs,
                found,
            } => {
                let what = match stage {
                    Stage::Exact => "retrieval: scoring",
                    Stage::Candidates => "two-stage retrieval: selecting candidates from",
                    Stage::Rerank => "two-stage retrieval: scoring candidates from",
                };
                info!(
                    "{what} {} of {} and {}{}",
                    counted(pairs, "pair"),
                    counted(images, "image"),
                    counted(texts, "caption"),
                    self.hint
                );
                let done = self.report_found(found);
                if self.shows_progress && done < pairs {
                    self.progress = Some(Progress::counting("pair", pairs, done));
                }
            }
            Event::Estimate { rate, left } => {
                let digits = if rate < 100.0 { 1 } else { 0 };
                info!(
                    "{rate:.digits$} pairs per second, about {} left",
                    duration_text(left.as_secs_f64())
                );
            }
            Event::Progress { scored, pairs } => {
                if let Some(progress) = &mut self.progress {
                    progress.reach(scored);
                    if scored == pairs {
                        self.progress = None;
                    }
                }
            }
        }
    }

    /// Logs what was found of an interrupted scoring. Returns the number of scored pairs.
    fn report_found(&self, found: Found) -> u64 {
        match found {
            Found::Nothing => 0,
            Found::Scores(pairs) => {
                info!("continuing after {} of an interrupted scoring", counted(pairs, "pair"));
                pairs
            }
            Found::Damaged(pairs) => {
                warn!(
                    "the stored scores are damaged: scoring continues after the {} before the damage",
                    counted(pairs, "pair")
                );
                pairs
            }
            Found::Other => {
                let directory = self.directory.display();
                warn!("{directory}: stored scores of other weights, texts or images are not used: scoring begins anew");
                0
            }
        }
    }
}
