//! Chat templates: the Jinja programs that turn a conversation into a prompt.
//!
//! A template sees what `transformers` gives it: `messages`, `add_generation_prompt`, `bos_token`, `eos_token`,
//! `raise_exception`, `strftime_now`, Python's string methods, and JSON as Python writes it. A model without a
//! template has no chat format; callers then pass plain text.

use crate::error::{Error, Result};
use crate::tokenizer::{GgufVocab, token_text};
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    now: Option<i64>,
}

impl ChatTemplate {
    /// A template from its source: `chat_template.jinja`, or `tokenizer.chat_template` of a GGUF file.
    /// `bos` and `eos` are the texts of the tokens; an unknown one is empty.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let source = without_generation_tags(source);
        environment(None).template_from_str(&source).map_err(|e| {
            Error::unsupported("the chat template does not compile")
                .found(e)
                .remedy("give another template, or plain text")
        })?;
        Ok(ChatTemplate { source, bos: bos.to_owned(), eos: eos.to_owned(), now: None })
    }

    /// The template of `tokenizer_config.json`, if it has one. Of several named ones, `default`.
    pub fn from_config(config: &serde_json::Value) -> Result<Option<Self>> {
        let text = |key: &str| token_text(&config[key]).unwrap_or_default();
        let template = &config["chat_template"];
        let named = |name: &str| {
            let entry = template.as_array()?.iter().find(|entry| entry["name"] == name)?;
            entry["template"].as_str()
        };
        let source = match template {
            serde_json::Value::Null => return Ok(None),
            serde_json::Value::String(source) => Some(source.as_str()),
            _ => named("default"),
        };
        let Some(source) = source else {
            return Err(Error::unsupported("chat_template")
                .file("tokenizer_config.json")
                .expected("a template, or a list of named ones with a `default`")
                .remedy("give a template, or plain text"));
        };
        ChatTemplate::new(source, text("bos_token"), text("eos_token"))
            .map(Some)
            .map_err(|e| e.file("tokenizer_config.json"))
    }

    /// The template of a GGUF file, if it has one.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Option<Self>> {
        let text =
            |id: Option<u32>| id.and_then(|id| vocab.tokens.get(id as usize)).map_or("", String::as_str);
        let template = vocab.chat_template.as_deref();
        template.map(|source| ChatTemplate::new(source, text(vocab.bos), text(vocab.eos))).transpose()
    }

    /// Fixes the time that `strftime_now` tells, in seconds since 1970 (UTC). Without it the system's clock is
    /// asked; in the browser there is none, so the page sets it.
    pub fn set_now(&mut self, seconds: i64) {
        self.now = Some(seconds);
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let environment = environment(self.now);
        let render = || {
            environment.template_from_str(&self.source)?.render(context! {
                messages,
                add_generation_prompt,
                bos_token => self.bos,
                eos_token => self.eos,
                tools => (),
                documents => (),
            })
        };
        render().map_err(|e| match e.kind() {
            ErrorKind::InvalidOperation if e.detail().is_some_and(|detail| detail.starts_with(REFUSED)) => {
                let reason = e.detail().unwrap_or_default().trim_start_matches(REFUSED).to_owned();
                Error::invalid("the chat template refuses this conversation").found(reason)
            }
            _ => Error::unsupported("the chat template failed")
                .found(e)
                .remedy("give another template, or plain text"),
        })
    }
}

/// Marks the errors that a template raises on purpose.
const REFUSED: &str = "raise_exception: ";

/// Jinja as `transformers` sets it up.
fn environment(now: Option<i64>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |reason: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{REFUSED}{reason}")))
    });
    environment.add_function("strftime_now", move |format: String| -> Result<String, minijinja::Error> {
        now.or_else(system_clock).map(|now| strftime(&format, now)).ok_or_else(|| {
            minijinja::Error::new(
                ErrorKind::InvalidOperation,
                "there is no clock here: ChatTemplate::set_now sets one",
            )
        })
    });
    environment.add_filter("tojson", to_json);
    environment
}

#[cfg(not(target_arch = "wasm32"))]
fn system_clock() -> Option<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(target_arch = "wasm32")]
fn system_clock() -> Option<i64> {
    None
}

/// `{% generation %}` marks the assistant's words for training; here it is an `if` that is always true.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        out.push_str(&rest[..at]);
        let tag_len = rest[at..].find("%}").map_or(rest.len() - at, |end| end + 2);
        let tag = &rest[at..at + tag_len];
        let inside = tag.trim_start_matches("{%").trim_end_matches("%}");
        match inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[at + tag_len..];
    }
    out + rest
}

/// `json.dumps(value, ensure_ascii=False, indent=…)`. (minijinja's own filter escapes `<` and `&` for HTML.)
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<Value> = options.get("separators")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|e| {
        minijinja::Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(e)
    })?;
    let mut out = String::new();
    let style = JsonStyle { indent: indent.map(|n| n.min(16)), sort: sort.unwrap_or(false) };
    style.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

struct JsonStyle {
    indent: Option<usize>,
    sort: bool,
}

impl JsonStyle {
    fn write(&self, json: &serde_json::Value, depth: usize, out: &mut String) {
        match json {
            serde_json::Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.close(']', depth, out);
            }
            serde_json::Value::Object(fields) if !fields.is_empty() => {
                out.push('{');
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort {
                    fields.sort_unstable_by_key(|(key, _)| *key);
                }
                for (i, (key, item)) in fields.into_iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                    out.push_str(": ");
                    self.write(item, depth + 1, out);
                }
                self.close('}', depth, out);
            }
            scalar => out.push_str(&scalar.to_string()),
        }
    }

    fn separate(&self, i: usize, depth: usize, out: &mut String) {
        match self.indent {
            None if i > 0 => out.push_str(", "),
            None => {}
            Some(n) => {
                out.push_str(if i > 0 { ",\n" } else { "\n" });
                out.push_str(&" ".repeat(n * depth));
            }
        }
    }

    fn close(&self, bracket: char, depth: usize, out: &mut String) {
        if let Some(n) = self.indent {
            out.push('\n');
            out.push_str(&" ".repeat(n * depth));
        }
        out.push(bracket);
    }
}

/// C's `strftime` for UTC, as far as templates use it; an unknown directive stays as it is.
fn strftime(format: &str, seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = civil(days);
    let weekday = DAYS[(days + 3).rem_euclid(7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let day_of_year = (1..month).map(|m| days_in_month(year, m)).sum::<i64>() + day;
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        // `%-d` is `%d` without leading zeros.
        let mut directive = letters.next();
        let bare = directive == Some('-');
        if bare {
            directive = letters.next();
        }
        let number = |n: i64, width: usize| if bare { n.to_string() } else { format!("{n:0width$}") };
        match directive {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &number(year.rem_euclid(100), 2),
            Some('m') => out += &number(month, 2),
            Some('d') => out += &number(day, 2),
            Some('e') => out += &format!("{day:2}"),
            Some('j') => out += &number(day_of_year, 3),
            Some('H') => out += &number(hour, 2),
            Some('I') => out += &number((hour + 11) % 12 + 1, 2),
            Some('M') => out += &number(minute, 2),
            Some('S') => out += &number(second, 2),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => out += "UTC",
            Some('z') => out += "+0000",
            Some('%') => out.push('%'),
            other => {
                out.push('%');
                out.extend(other);
            }
        }
    }
    out
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01 a year ends with February, and the leap day is its last.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Vec<Message> {
        vec![
            Message::new("system", " Be brief. "),
            Message::new("user", "Hi <there> & \"you\""),
            Message::new("assistant", "Hello!"),
            Message::new("user", "Bye"),
        ]
    }

    fn render(source: &str, messages: &[Message]) -> String {
        ChatTemplate::new(source, "<s>", "</s>").unwrap().render(messages, true).unwrap()
    }

    #[test]
    fn llama_2_style() {
        let source = "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'].strip() %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}{% else %}{% set text = m['content'] %}{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
        assert_eq!(
            render(source, &talk()),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi <there> & \"you\" [/INST] Hello! </s><s>[INST] Bye [/INST]"
        );
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        let twice = [Message::new("user", "a"), Message::new("user", "b")];
        let message = template.render(&twice, true).unwrap_err().to_string();
        assert!(message.contains("refuses") && message.contains("roles must alternate"), "{message}");
    }

    #[test]
    fn llama_3_style() {
        let source = "{{- bos_token }}\n{%- if date_string is not defined %}\n    {%- set date_string = strftime_now('%d %b %Y') %}\n{%- endif %}\n{%- if messages[0].role == 'system' %}\n    {%- set system = messages[0].content | trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' ~ date_string ~ '\\n\\n' ~ system ~ '<|eot_id|>' }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n";
        let mut template = ChatTemplate::new(source, "<|begin_of_text|>", "<|eot_id|>").unwrap();
        template.set_now(1_721_952_000);
        let talk = [Message::new("system", " Short. "), Message::new("user", " Hi ")];
        assert_eq!(
            template.render(&talk, true).unwrap(),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\nShort.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        );
        assert!(!template.render(&talk, false).unwrap().contains("assistant"));
    }

    #[test]
    fn chatml_style_with_a_default_system_message() {
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        assert_eq!(
            render(source, &talk()[1..2]),
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi <there> & \"you\"<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn qwen_3_style_with_a_namespace_and_reversed_loop() {
        let source = "{%- if tools %}{{- 'TOOLS' }}{%- endif %}\n{%- set ns = namespace(last=-1) %}\n{%- for m in messages[::-1] %}\n    {%- set i = (messages|length - 1) - loop.index0 %}\n    {%- if ns.last < 0 and m.role == 'user' and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) %}\n        {%- set ns.last = i %}\n    {%- endif %}\n{%- endfor %}\n{%- for m in messages %}\n    {%- set content = m.content %}\n    {%- if '</think>' in content %}\n        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n    {%- endif %}\n    {{- '<|im_start|>' + m.role + ('!' if loop.index0 == ns.last else '') + '\\n' + content + '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}";
        let talk = [
            Message::new("user", "1"),
            Message::new("assistant", "<think>\nhm\n</think>\n\n2"),
            Message::new("user", "3"),
        ];
        assert_eq!(
            render(source, &talk),
            "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user!\n3<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn mistral_style() {
        let source = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";
        assert_eq!(
            render(source, &talk()[1..]),
            "<s>[INST] Hi <there> & \"you\" [/INST]Hello!</s>[INST] Bye [/INST]"
        );
        assert!(ChatTemplate::new(source, "<s>", "</s>").unwrap().render(&talk(), true).is_err());
    }

    #[test]
    fn gemma_style() {
        let source = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";
        assert_eq!(
            render(source, &talk()[2..]),
            "<s><start_of_turn>model\nHello!<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
        );
    }

    #[test]
    fn zephyr_style_relies_on_trimmed_blocks() {
        let source = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";
        assert_eq!(
            render(source, &talk()[2..]),
            "<|assistant|>\nHello!</s>\n<|user|>\nBye</s>\n<|assistant|>\n"
        );
    }

    #[test]
    fn phi_3_style() {
        let source = "{% for message in messages %}{% if message['role'] in ['user', 'system'] and message['content'] %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
        assert_eq!(render(source, &talk()[3..]), "<|user|>\nBye<|end|>\n<|assistant|>\n");
    }

    #[test]
    fn json_is_written_as_python_does() {
        let source =
            "{{ messages[0] | tojson }} {{ {'a': [1, 2.5, none, true], 'b': {}} | tojson(indent=2) }}";
        assert_eq!(
            render(source, &[Message::new("user", "<é> 'x' & \"y\"")]),
            "{\"role\": \"user\", \"content\": \"<é> 'x' & \\\"y\\\"\"} {\n  \"a\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"b\": {}\n}"
        );
    }

    #[test]
    fn generation_blocks_and_loop_controls_are_understood() {
        let source = "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{%- generation -%} {{ m.content }} {%- endgeneration %}{% break %}{% endfor %}";
        assert_eq!(render(source, &talk()[1..]), "Hello!");
    }

    #[test]
    fn templates_are_found_in_the_configuration() {
        let config = serde_json::json!({
            "bos_token": {"content": "<b>"}, "eos_token": "<e>",
            "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}]
        });
        let template = ChatTemplate::from_config(&config).unwrap().unwrap();
        assert_eq!(template.render(&[Message::new("user", "hi")], true).unwrap(), "<b>hi<e>");
        assert!(ChatTemplate::from_config(&serde_json::json!({})).unwrap().is_none());
        assert!(ChatTemplate::from_config(&serde_json::json!({"chat_template": 3})).is_err());
    }

    #[test]
    fn templates_are_found_in_gguf() {
        let mut vocab = GgufVocab {
            tokens: vec!["<s>".into(), "</s>".into()],
            bos: Some(0),
            eos: Some(7),
            ..GgufVocab::default()
        };
        assert!(ChatTemplate::from_gguf(&vocab).unwrap().is_none());
        vocab.chat_template = Some("{{ bos_token }}|{{ eos_token }}".into());
        assert_eq!(ChatTemplate::from_gguf(&vocab).unwrap().unwrap().render(&[], false).unwrap(), "<s>|");
    }

    #[test]
    fn broken_templates_are_errors() {
        let message = ChatTemplate::new("{% for x in %}", "", "").unwrap_err().to_string();
        assert!(message.contains("does not compile"), "{message}");
        for source in [
            "{{ messages[0].nothing.more }}",
            "{{ 1 // 0 }}",
            "{{ nofunction() }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        ] {
            assert!(ChatTemplate::new(source, "", "").unwrap().render(&talk(), true).is_err(), "{source}");
        }
        assert!(ChatTemplate::new("{%", "", "").is_err());
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S %A %j", 0), "1970-01-01 00:00:00 Thursday 001");
        assert_eq!(
            strftime("%d %B %Y, %-d/%-m/%y %I %p %a %b", 951_827_696),
            "29 February 2000, 29/2/00 12 PM Tue Feb"
        );
        assert_eq!(strftime("%F %T %% %Q %", 1_735_689_599), "2024-12-31 23:59:59 % %Q %");
        assert_eq!(strftime("%F", -1), "1969-12-31");
    }
}
