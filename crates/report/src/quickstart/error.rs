//! Errors of the quickstart.

use vlct_config::ConfigError;
use vlct_data::DataError;
use vlct_train::TrainError;

use crate::ReportError;

/// An error of the quickstart. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuickstartError {
    /// An error of training or evaluation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An error in the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error while writing the synthetic data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An error of the report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The user set a key that the quickstart sets itself, or a key that would prevent the evaluation.
    #[error("{key} cannot be set in a quickstart, which generates its own data")]
    FixedKey {
        /// The key.
        key: String,
    },
    /// The configuration lacks a loss that the report needs.
    #[error("the quickstart's report needs loss_names.itm=1 and loss_names.mlm=1")]
    MissingLosses,
    /// The quickstart was stopped before training began.
    #[error("stopped before training began: there is nothing to report")]
    Stopped,
}

/// Result with a [`QuickstartError`].
pub type Result<T> = std::result::Result<T, QuickstartError>;
