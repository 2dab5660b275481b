//! What can go wrong in a quickstart.

use vlct_data::DataError;
use vlct_train::TrainError;
use vlct_train::config::ConfigError;

use crate::ReportError;

/// An error of the quickstart: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuickstartError {
    /// Training or evaluation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The synthetic data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The page.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A key that the quickstart sets itself, or that would leave nothing to report.
    #[error("{key} cannot be set in a quickstart, which generates its own data")]
    FixedKey {
        /// The key.
        key: String,
    },
    /// The report shows matching and masked words.
    #[error("the quickstart's report needs loss_names.itm=1 and loss_names.mlm=1")]
    MissingLosses,
    /// Stopped before there was anything to show.
    #[error("stopped before training began: there is nothing to report")]
    Stopped,
}

/// Result with a [`QuickstartError`].
pub type Result<T> = std::result::Result<T, QuickstartError>;
