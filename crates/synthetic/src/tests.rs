//! Statistical properties of scenes, images and texts. `truth.rs` checks the texts.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;

use super::words::{Colour, Pattern, Relation, Shape, Size};
use super::*;
use vlct_data::random::{Purpose, stream};

const SEED: u64 = 11;

fn text_rng(index: u64) -> ChaCha8Rng {
    stream(SEED, Purpose::Synthetic, index, 1)
}

fn scene_and_captions(index: u64) -> (Scene, Vec<String>) {
    let scene = Scene::generate(SEED, index);
    let captions = captions(&scene, &mut text_rng(index));
    (scene, captions)
}

/// Asserts that `counts` has `keys` entries, and that each count differs from their mean by at most `tolerance` times the mean.
fn assert_even<T: std::fmt::Debug>(counts: &HashMap<T, usize>, keys: usize, tolerance: f64) {
    assert_eq!(counts.len(), keys, "{counts:?}");
    let mean = counts.values().sum::<usize>() as f64 / keys as f64;
    assert!(
        counts.values().all(|&n| (n as f64 - mean).abs() <= tolerance * mean),
        "{counts:?}"
    );
}

#[test]
fn scenes_are_a_function_of_seed_and_index() {
    assert_eq!(scene_and_captions(5), scene_and_captions(5));
    assert_ne!(Scene::generate(SEED, 5), Scene::generate(SEED, 6));
    assert_ne!(Scene::generate(SEED, 5), Scene::generate(SEED + 1, 5));
    assert!(render(&Scene::generate(SEED, 5), 64) == render(&Scene::generate(SEED, 5), 64));
}

#[test]
fn objects_are_inside_the_image_and_disjoint() {
    for i in 0..3000 {
        let scene = Scene::generate(SEED, i);
        assert!((1..=4).contains(&scene.objects.len()));
        assert_eq!(scene.objects.len(), scene.kinds.iter().map(|k| k.count).sum::<usize>());
        let covering = scene.kinds.len() == 2 && scene.relation(0, 1) == Some(Relation::InFront);
        for (n, a) in scene.objects.iter().enumerate() {
            // Every object is at least 14 of 64 pixels wide.
            assert!(a.radius * 2.0 * 64.0 >= 14.0);
            assert!(
                [a.x, a.y].iter().all(|c| c - a.radius > 0.0 && c + a.radius < 1.0),
                "{i}: {a:?}"
            );
            for b in &scene.objects[..n] {
                let apart = (a.x - b.x).abs().max((a.y - b.y).abs()) - a.radius - b.radius;
                assert!(covering || apart > 0.04, "{i}: {a:?} {b:?}");
            }
        }
    }
}

#[test]
fn attributes_are_uniform() {
    let (mut backgrounds, mut colours, mut shapes, mut sizes) =
        (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
    let mut fills: HashMap<Pattern, usize> = HashMap::new();
    let mut relations: HashMap<Relation, usize> = HashMap::new();
    for i in 0..6000 {
        let scene = Scene::generate(SEED, i);
        if let BackgroundStyle::Single(_, colour) = scene.background.style {
            *backgrounds.entry(colour).or_default() += 1;
        }
        for kind in &scene.kinds {
            *colours.entry(kind.colour).or_default() += 1;
            *shapes.entry(kind.shape).or_default() += 1;
            *fills.entry(kind.fill).or_default() += 1;
            if kind.size_is_free {
                *sizes.entry(kind.size).or_default() += 1;
            }
        }
        if scene.kinds.len() == 2 {
            let relation = scene.relation(0, 1).expect("two kinds always have a relation");
            *relations
                .entry(if relation == Relation::Behind {
                    Relation::InFront
                } else {
                    relation
                })
                .or_default() += 1;
        }
    }
    assert_even(&backgrounds, Colour::ALL.len(), 0.2);
    assert_even(&colours, Colour::ALL.len(), 0.35);
    assert_even(&shapes, Shape::ALL.len(), 0.12);
    assert_even(&sizes, Size::ALL.len(), 0.06);
    fills.remove(&Pattern::Plain);
    assert_even(&fills, Pattern::ALL.len() - 1, 0.1);
    // Above, beside and in front are all common.
    assert_even(&relations, 3, 0.5);
}

#[test]
fn captions_are_true_grammatical_and_name_three_attributes() {
    for i in 0..3000 {
        let (scene, captions) = scene_and_captions(i);
        assert_eq!(captions.len(), CAPTIONS_PER_IMAGE, "{i}");
        for (n, caption) in captions.iter().enumerate() {
            let (truth, attributes) =
                truth::check_caption(&scene, caption).unwrap_or_else(|error| panic!("{i} {caption:?}: {error}"));
            assert!(truth, "{i} {caption:?} of {scene:?}");
            assert!(attributes >= 3, "{caption:?}");
            assert!((6..=20).contains(&caption.split(' ').count()), "{caption:?}");
            assert!(!captions[..n].contains(caption));
            assert!(!caption.contains("left") && !caption.contains("right"));
        }
    }
}

#[test]
fn words_that_exclude_each_other_are_equally_common_in_captions() {
    let mut word_counts: HashMap<String, usize> = HashMap::new();
    for i in 0..3000 {
        for word in scene_and_captions(i).1.iter().flat_map(|caption| caption.split(' ')) {
            *word_counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    for group in [
        &["above", "below"][..],
        &["big", "small"],
        &["plain", "striped", "dotted", "checkered"],
    ] {
        let counts = group.iter().map(|word| (word, word_counts[*word])).collect();
        assert_even(&counts, group.len(), 0.1);
    }
}

#[test]
fn captions_discriminate_between_images() {
    let held_out: Vec<_> = (0..200).map(scene_and_captions).collect();
    let (mut wrong_pairs, mut true_of_others) = (0, 0);
    let mut unique = 0;
    for (i, (_, captions)) in held_out.iter().enumerate() {
        let others = held_out.iter().enumerate().filter(|(j, _)| *j != i);
        let matches = others
            .filter(|(_, (scene, _))| truth::check_caption(scene, &captions[0]).is_ok_and(|(t, _)| t))
            .count();
        wrong_pairs += held_out.len() - 1;
        true_of_others += matches;
        unique += usize::from(matches == 0);
    }
    assert!(
        (true_of_others as f64) < 0.001 * wrong_pairs as f64,
        "{true_of_others} of {wrong_pairs}"
    );
    assert!(unique >= 190, "{unique}");
}

#[test]
fn questions_have_one_answer_and_yes_and_no_are_balanced() {
    let mut answer_counts: HashMap<String, usize> = HashMap::new();
    for i in 0..3000 {
        let scene = Scene::generate(SEED, i);
        let drawn = questions(&scene, &mut text_rng(i));
        assert_eq!(drawn.len(), QUESTIONS_PER_IMAGE);
        for (question, answer) in drawn {
            assert_eq!(
                truth::answer(&scene, &question).as_ref(),
                Some(&answer),
                "{i} {question:?} {scene:?}"
            );
            assert!(answers().contains(&answer.as_str()), "{answer}");
            *answer_counts.entry(answer).or_default() += 1;
        }
    }
    let [yes, no] = ["yes", "no"].map(|word| answer_counts[word] as f64);
    assert!((yes / no - 1.0).abs() < 0.15, "{yes} {no}");
    assert_eq!(answer_counts.len(), answers().len(), "every answer occurs");
}

#[test]
fn statements_are_true_of_one_pair_and_false_of_the_other() {
    let (mut count, mut true_of_first) = (0, 0);
    for i in 0..2000 {
        let contrast = Contrast::draw(&mut text_rng(i));
        assert!(!contrast.statements.is_empty(), "{i}");
        for (pair, [first, second]) in contrast.pairs.iter().enumerate() {
            for (statement, truth) in contrast.statements_of(pair) {
                assert_eq!(
                    truth::holds(first, second, &statement),
                    Some(truth),
                    "{i} {statement:?}"
                );
            }
        }
        count += contrast.statements.len();
        true_of_first += contrast.statements.iter().filter(|(_, pair)| *pair == 0).count();
    }
    let share = true_of_first as f64 / count as f64;
    assert!((0.47..0.53).contains(&share), "{share}");
    assert!(count > 2000 * (STATEMENTS_PER_PAIR - 1), "{count}");
}

#[test]
fn vocabulary_has_exactly_the_words_of_all_texts() {
    let vocabulary = vocabulary();
    assert_eq!(vocabulary[..5], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]);
    assert!(vocabulary.len() <= 150);
    let mut used: HashMap<&str, bool> = vocabulary.iter().map(|w| (w.as_str(), w.starts_with('['))).collect();
    assert_eq!(used.len(), vocabulary.len(), "a word occurs twice");
    for i in 0..3000 {
        let (scene, mut texts) = scene_and_captions(i);
        texts.extend(questions(&scene, &mut text_rng(i)).into_iter().map(|(q, _)| q));
        texts.extend(Contrast::draw(&mut text_rng(i)).statements.into_iter().map(|(s, _)| s));
        for text in texts {
            for word in text.replace([','], " , ").replace('?', " ?").split_whitespace() {
                *used.get_mut(word).unwrap_or_else(|| panic!("{word:?} of {text:?}")) = true;
            }
        }
    }
    let unused: Vec<_> = used.iter().filter(|(_, used)| !**used).collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert!(content_words().iter().all(|word| used.contains_key(word)));
}

#[test]
fn images_show_the_colours_of_their_scene() {
    let distance = |a: [u8; 3], b: [u8; 3]| (0..3).map(|i| a[i].abs_diff(b[i]) as u32).max().unwrap_or(0);
    for i in 0..400 {
        let scene = Scene::generate(SEED, i);
        let image = render(&scene, 64);
        for (n, object) in scene.objects.iter().enumerate() {
            let kind = scene.kinds[object.kind];
            // A point inside the shape, in units of the radius from the centre.
            let (u, v) = match kind.shape {
                Shape::Ring | Shape::Crescent => (-0.7, 0.0),
                _ => (0.0, 0.0),
            };
            let covered = scene.objects[n + 1..]
                .iter()
                .any(|o| (o.x - object.x).abs() < object.radius);
            if kind.fill == Pattern::Plain && !covered {
                let (sin, cos) = object.tilt.sin_cos();
                let x = object.x + object.radius * (u * cos - v * sin);
                let y = object.y + object.radius * (u * sin + v * cos);
                let pixel = image.get_pixel((x * 64.0) as u32, (y * 64.0) as u32).0;
                assert!(distance(pixel, kind.colour.rgb()) < 24, "{i}: {pixel:?} for {kind:?}");
            }
        }
        if let BackgroundStyle::Single(Pattern::Plain, colour) = scene.background.style {
            assert_eq!(image.get_pixel(0, 0).0, colour.rgb());
        }
    }
}

#[test]
fn class_of_a_single_kind_is_its_shape() {
    let mut classes: HashMap<Shape, usize> = HashMap::new();
    for i in 0..2000 {
        let scene = Scene::generate_single(SEED, i);
        assert_eq!(scene.kinds.len(), 1);
        assert_eq!(class_of(&scene), scene.kinds[0].shape);
        *classes.entry(class_of(&scene)).or_default() += 1;
    }
    assert_even(&classes, Shape::ALL.len(), 0.25);
}

/// The text-only baseline predicts grammar well and content words badly.
#[test]
fn content_words_cannot_be_guessed_from_the_text() {
    let vocabulary = vocabulary();
    let ids: HashMap<&str, u32> = vocabulary
        .iter()
        .zip(0u32..)
        .map(|(word, id)| (word.as_str(), id))
        .collect();
    let encode = |caption: &String| -> Vec<u32> {
        let marked = format!("[CLS] {} [SEP]", caption.replace(',', " ,"));
        marked.split(' ').map(|word| ids[word]).collect()
    };
    let training: Vec<Vec<u32>> = (0..8000)
        .flat_map(|i| scene_and_captions(i).1)
        .map(|c| encode(&c))
        .collect();
    let baseline = TextBaseline::fit(training.iter().map(Vec::as_slice));
    let content: Vec<u32> = content_words().iter().map(|word| ids[word]).collect();
    let mut masked = Vec::new();
    for caption in (8000..8400).flat_map(|i| scene_and_captions(i).1) {
        let caption_ids = encode(&caption);
        for position in 1..caption_ids.len() - 1 {
            let mut masked_ids = caption_ids.clone();
            masked_ids[position] = ids["[MASK]"];
            masked.push((masked_ids, position, caption_ids[position]));
        }
    }
    let accuracy = |is_content: bool| {
        let chosen = masked
            .iter()
            .filter(|(_, _, truth)| content.contains(truth) == is_content);
        baseline.accuracy(chosen.map(|(ids, position, truth)| (ids.as_slice(), *position, *truth)))
    };
    let (content, grammar) = (accuracy(true), accuracy(false));
    println!("text alone: {content:.3} of content words, {grammar:.3} of the others");
    assert!(content < 0.25, "{content}");
    assert!(grammar > 0.8, "the baseline is too weak: {grammar}");
}
