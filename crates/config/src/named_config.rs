//! Named configs. Each is a TOML file in `recipes`, compiled into the program.

use crate::error::ConfigError;
use crate::value::{Value, toml_entries};

/// A named config.
pub struct NamedConfig {
    /// The name on the command line.
    pub name: &'static str,
    /// The content of the file: a comment that begins with one line on the purpose and gives the command and the expected result,
    /// followed by the keys and values that the config sets.
    pub text: &'static str,
}

macro_rules! named_configs {
    ($($name:literal),+ $(,)?) => {
        /// All named configs.
        pub static NAMED_CONFIGS: &[NamedConfig] = &[
            $(NamedConfig { name: $name, text: include_str!(concat!("../recipes/", $name, ".toml")) },)+
        ];
    };
}

named_configs![
    "quickstart",
    "own_data",
    "task_mlm_itm_mae",
    "task_finetune_vqa_mae_randaug",
    "task_finetune_nlvr2_mae_randaug",
    "task_finetune_irtr_coco_mae_randaug",
    "task_finetune_irtr_f30k_mae_randaug",
    "task_finetune_labels",
    "task_mlm_itm",
    "task_mlm_itm_randaug",
    "task_finetune_vqa",
    "task_finetune_vqa_randaug",
    "task_finetune_nlvr2",
    "task_finetune_nlvr2_randaug",
    "task_finetune_irtr_coco",
    "task_finetune_irtr_coco_randaug",
    "task_finetune_irtr_f30k",
    "task_finetune_irtr_f30k_randaug",
    "step25k",
    "step50k",
    "step100k",
    "step200k",
];

impl NamedConfig {
    /// Returns the named config of this name.
    pub fn find(name: &str) -> Option<&'static NamedConfig> {
        NAMED_CONFIGS.iter().find(|config| config.name == name)
    }

    /// Returns the first line of the comment, which states the purpose.
    pub fn summary(&self) -> &'static str {
        self.text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches('#')
            .trim()
    }

    /// Returns the comment at the beginning of the file, without the `#` signs.
    pub fn description(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix('#'));
        let mut text = String::new();
        for line in lines {
            text.push_str(line.strip_prefix(' ').unwrap_or(line));
            text.push('\n');
        }
        text
    }

    /// Returns the keys and values that the config sets.
    ///
    /// # Errors
    /// Returns [`ConfigError::File`] if the file is not TOML. A test checks that every file is TOML.
    pub fn settings(&self) -> Result<Vec<(String, Value)>, ConfigError> {
        toml_entries(self.text).map_err(|reason| ConfigError::File {
            path: format!("recipes/{}.toml", self.name).into(),
            reason,
        })
    }
}
