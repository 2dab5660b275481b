//! Named configs: the recipe files of this crate, part of the program.

use super::error::ConfigError;
use super::value::{Value, toml_entries};

/// A named config.
pub struct Recipe {
    /// Its name on the command line.
    pub name: &'static str,
    /// The recipe file: a comment with command, hardware, time and expected result, then the keys it sets.
    pub text: &'static str,
}

macro_rules! recipes {
    ($($name:literal),+ $(,)?) => {
        /// All named configs.
        pub static RECIPES: &[Recipe] = &[
            $(Recipe { name: $name, text: include_str!(concat!("../../recipes/", $name, ".toml")) },)+
        ];
    };
}

recipes![
    "quickstart",
    "task_mlm_itm_mae",
    "task_finetune_vqa_mae_randaug",
    "task_finetune_nlvr2_mae_randaug",
    "task_finetune_irtr_coco_mae_randaug",
    "task_finetune_irtr_f30k_mae_randaug",
    "step25k",
    "step50k",
    "step100k",
    "step200k",
];

impl Recipe {
    /// The named config of that name.
    pub fn find(name: &str) -> Option<&'static Recipe> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// What it is for: the first line of its comment.
    pub fn summary(&self) -> &'static str {
        self.text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches('#')
            .trim()
    }

    /// The comment at its beginning, without the comment signs.
    pub fn description(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix('#'));
        let mut text = String::new();
        for line in lines {
            text.push_str(line.strip_prefix(' ').unwrap_or(line));
            text.push('\n');
        }
        text
    }

    /// The keys it sets.
    ///
    /// # Errors
    /// If the file is not TOML, which the tests exclude.
    pub fn settings(&self) -> Result<Vec<(String, Value)>, ConfigError> {
        toml_entries(self.text).map_err(|reason| ConfigError::File {
            path: format!("recipes/{}.toml", self.name).into(),
            reason,
        })
    }
}
