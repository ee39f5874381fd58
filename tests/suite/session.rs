//! Sessions: what streams is what was generated, whatever the cache holds already.

use crate::shared::shared;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::checkpoint::lora::Adapter;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::sampler::SamplerOptions;
use halfbyte::session::{Event, FinishReason, GenerateOptions};
use halfbyte::{Device, Error, Session, embedded};

/// The embedded model on the CPU twin.
fn tale(context: usize) -> Session {
    let options =
        LoadOptions { precision: CacheFormat::F32, context: Some(context), ..LoadOptions::default() };
    pollster::block_on(async {
        let checkpoint = embedded::open().await.expect("the embedded model opens");
        Session::load(&Device::Cpu, &checkpoint, &options, |_| {}).await.expect("it loads")
    })
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    let sampling = SamplerOptions::greedy();
    GenerateOptions { max_tokens: Some(max_tokens), sampling, ..GenerateOptions::default() }
}

fn write(session: &mut Session, prompt: &str, options: &GenerateOptions) -> (String, Option<FinishReason>) {
    let mut generation = session.generate(prompt, options).expect("a prompt that fits");
    let text = generation.wait().expect("it writes");
    (text, generation.summary().finish_reason)
}

#[test]
fn a_kept_cache_changes_nothing() {
    let mut session = tale(128);
    let (first, _) = write(&mut session, "Once upon a time", &greedy(12));
    let longer = format!("Once upon a time{first} The");
    let mut generation = session.generate(&longer, &greedy(12)).expect("a prompt");
    let kept = generation.wait().expect("it writes");
    let other = write(&mut session, "A dog", &greedy(8)).0;
    session.reset();
    assert_eq!(kept, write(&mut session, &longer, &greedy(12)).0);
    session.reset();
    assert_eq!(other, write(&mut session, "A dog", &greedy(8)).0);
    // The same prompt again computes its last token only.
    assert_eq!(other, write(&mut session, "A dog", &greedy(8)).0);
}

#[test]
fn a_cancelled_text_leaves_the_session_usable() {
    let mut session = tale(128);
    let (whole, _) = write(&mut session, "The king", &greedy(16));
    session.reset();
    let mut begun = String::new();
    let mut generation = session.generate("The king", &greedy(16)).expect("a prompt");
    for _ in 0..4 {
        begun += &pollster::block_on(generation.next()).expect("more text").expect("it writes");
    }
    assert_eq!(generation.summary().finish_reason, None);
    assert_eq!(generation.summary().token_ids.len(), 4);
    drop(generation);
    assert!(whole.starts_with(&begun), "{begun:?} of {whole:?}");
    // The tokens themselves go on where it stopped: text could be cut into other tokens.
    let mut ids = session.tokenizer.encode("The king", true).expect("ids");
    let mut generation = session.generate("The king", &greedy(4)).expect("a prompt");
    generation.wait().expect("it writes");
    ids.extend(generation.summary().token_ids);
    let mut generation = session.generate_from(ids, &greedy(12)).expect("a prompt");
    let rest = generation.wait().expect("it writes");
    assert_eq!(whole, begun + &rest);
}

#[test]
fn sampling_repeats_with_its_seed() {
    let mut session = tale(128);
    let options = |seed| GenerateOptions {
        max_tokens: Some(16),
        sampling: SamplerOptions { seed: Some(seed), temperature: 1.2, ..SamplerOptions::default() },
        ..GenerateOptions::default()
    };
    let (one, _) = write(&mut session, "One day", &options(1));
    assert_eq!(one, write(&mut session, "One day", &options(1)).0);
    assert_ne!(one, write(&mut session, "One day", &options(2)).0);
    assert_eq!(session.generate("One day", &options(7)).expect("a prompt").seed(), Some(7));
    assert_eq!(session.generate("One day", &greedy(1)).expect("a prompt").seed(), None);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let mut session = tale(128);
    let (whole, reason) = write(&mut session, "Once upon a time", &greedy(16));
    assert_eq!(reason, Some(FinishReason::Length));
    // A stop string that begins and ends within tokens.
    let at = whole.char_indices().nth(whole.chars().count() / 2).expect("a long text").0;
    let stop: String = whole[at..].chars().take(5).collect();
    let options = GenerateOptions { stop: vec!["never written".into(), stop.clone()], ..greedy(16) };
    let (text, reason) = write(&mut session, "Once upon a time", &options);
    assert_eq!(text, whole[..whole.find(&stop).expect("it is there")]);
    assert_eq!(reason, Some(FinishReason::Stop));
    // And the session has not lost its thread.
    assert_eq!(whole, write(&mut session, "Once upon a time", &greedy(16)).0);
}

#[test]
fn streams_whole_characters() {
    // So hot that tokens of single bytes come up, most of which are no UTF-8.
    let mut session = tale(64);
    let mut replaced = false;
    for seed in 0..4 {
        let sampling = SamplerOptions {
            seed: Some(seed),
            temperature: 20.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..SamplerOptions::default()
        };
        let options = GenerateOptions { max_tokens: Some(30), sampling, ..GenerateOptions::default() };
        let mut generation = session.generate_from(vec![0, 5], &options).expect("a prompt");
        let mut streamed = String::new();
        while let Some(piece) = pollster::block_on(generation.next()) {
            let piece = piece.expect("it writes");
            assert!(!piece.is_empty());
            streamed += &piece;
        }
        let ids = generation.summary().token_ids;
        drop(generation);
        let before = session.tokenizer.decode(&[0, 5]);
        let all = session.tokenizer.decode(&[&[0, 5][..], &ids].concat());
        replaced |= all.contains('\u{fffd}');
        assert_eq!(format!("{before}{streamed}"), all);
    }
    assert!(replaced, "no text had bytes that are no UTF-8");
}

#[test]
fn says_why_it_ended() {
    let mut session = tale(24);
    assert_eq!(write(&mut session, "Once", &greedy(0)), (String::new(), Some(FinishReason::Length)));
    assert_eq!(write(&mut session, "Once", &greedy(3)).1, Some(FinishReason::Length));
    // The context is full before the model is done.
    let mut generation = session.generate("Once upon a time", &greedy(1000)).expect("a prompt");
    generation.wait().expect("it writes");
    let summary = generation.summary();
    assert_eq!(summary.finish_reason, Some(FinishReason::Length));
    assert_eq!(summary.prompt_token_ids.len() + summary.token_ids.len(), 24);
    // Whatever it is told, the first token after a prompt like this may be the end token.
    let end = session.tokenizer.eos()[0];
    let token = {
        let mut generation = session.generate("Once", &greedy(1)).expect("a prompt");
        generation.wait().expect("it writes");
        generation.summary().token_ids[0]
    };
    assert_ne!(token, end);
    session.tokenizer.add_eos(token);
    assert_eq!(write(&mut session, "Once", &greedy(3)), (String::new(), Some(FinishReason::Stop)));
}

#[test]
fn refuses_what_cannot_be_run() {
    let mut session = tale(16);
    let long = "and then ".repeat(40);
    let error = session.generate(&long, &greedy(1)).err().expect("too long");
    assert!(matches!(error, Error::ContextFull { context: 16, .. }), "{error}");
    let error = session.generate_from(Vec::new(), &greedy(1)).err().expect("nothing");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let error = session.chat(&[], &greedy(1)).err().expect("no template");
    assert!(error.to_string().contains("no chat template"), "{error}");
    let mut generation = session.generate_from(vec![1, 1 << 30], &greedy(1)).expect("checked when it runs");
    let error = generation.wait().expect_err("no such token");
    assert!(error.to_string().contains("outside the vocabulary"), "{error}");
    drop(generation);
    assert!(!write(&mut session, "Once", &greedy(2)).0.is_empty());
}

#[test]
fn a_long_prompt_can_be_watched_and_stopped() {
    let mut session = tale(400);
    let prompt: Vec<u32> = (0..300).map(|i| 3 + i * 37 % 900).collect();
    let mut generation = session.generate_from(prompt.clone(), &greedy(8)).expect("a prompt");
    let whole = generation.wait().expect("it writes");
    session.reset();
    let mut generation = session.generate_from(prompt.clone(), &greedy(8)).expect("a prompt");
    let event = pollster::block_on(generation.next_event()).expect("an event").expect("it reads");
    assert_eq!(event, Event::Prompt { done: 128, total: 300 });
    drop(generation); // in the middle of the prompt; what was read is kept
    let mut generation = session.generate_from(prompt, &greedy(8)).expect("a prompt");
    let event = pollster::block_on(generation.next_event()).expect("an event").expect("it reads");
    assert_eq!(event, Event::Prompt { done: 256, total: 300 });
    assert_eq!(whole, generation.wait().expect("it writes"));
}

#[test]
fn a_text_goes_on_with_another_load_of_its_model() {
    let mut session = tale(400);
    let sampled = SamplerOptions { seed: Some(7), ..SamplerOptions::default() };
    for sampling in [SamplerOptions::greedy(), sampled] {
        let options = GenerateOptions { max_tokens: Some(24), sampling, ..GenerateOptions::default() };
        let (whole, _) = write(&mut session, "One day", &options);
        session.reset();
        let mut generation = session.generate("One day", &options).expect("a prompt");
        let mut text = String::new();
        for tokens in 0.. {
            if [1, 2, 11].contains(&tokens) {
                generation.replace_model(tale(400).model);
            }
            let Some(event) = pollster::block_on(generation.next_event()) else { break };
            let Event::Text(piece) = event.expect("it writes") else { continue };
            text += &piece;
        }
        assert_eq!(whole, text);
    }
}

/// Whatever was in the cache was computed with other weights.
#[test]
fn a_conversation_is_read_again_when_adapters_change() {
    let Some(shared) = shared("adapters") else { return };
    let tiny = shared.join("fixtures/tinystories-656k");
    let name = "lora-on-bnb-nf4-dq";
    let mut session = pollster::block_on(async {
        let checkpoint = Checkpoint::open(tiny.join("bnb-nf4-dq")).await.expect("the base");
        let adapters = vec![Adapter::open(tiny.join(name)).await.expect("an adapter")];
        let options = LoadOptions { context: Some(64), adapters, ..LoadOptions::default() };
        Session::load(&Device::Cpu, &checkpoint, &options, |_| {}).await.expect("a session")
    });
    let options = greedy(12);
    let mut texts = Vec::new();
    for weight in [-10.0, 0.0, -10.0] {
        pollster::block_on(session.set_adapter_weights(&[(name, weight)])).expect("a weight");
        let [cached, fresh] = [false, true].map(|reset| {
            if reset {
                session.reset();
            }
            write(&mut session, "Once upon a time", &options).0
        });
        assert_eq!(cached, fresh, "with weight {weight}");
        texts.push(fresh);
    }
    assert!(texts[0] == texts[2] && texts[0] != texts[1], "{texts:?}");
}
