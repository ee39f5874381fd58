//! What the window shows. It never waits for the model: that is told by commands and answers by events.

use crate::map;
use crate::worker::{Command, Event, Worker};
use eframe::egui::{self, Align, Align2, Color32, FontId, Frame, Layout, Margin, Slider, Theme, Ui, vec2};
use halfbyte::chat::Message;
use halfbyte::gpu::Context;
use halfbyte::inspect::Report;
use halfbyte::sampler::SamplerOptions;
use halfbyte::session::{GenerateOptions, Summary};
use std::path::PathBuf;
use std::thread::JoinHandle;

const ACCENT: Color32 = Color32::from_rgb(0x38, 0x88, 0xd8);

pub struct App {
    context: Context,
    worker: Worker,
    model: Option<(Box<Report>, bool)>, // true: it chats; else it goes on with a text
    pub turns: Vec<Message>,
    pub input: String,
    pub options: GenerateOptions,
    pub writing: bool,
    progress: Option<(String, f32)>,
    pub error: Option<String>,
    /// What the answer comes to.
    pub summary: Option<Box<Summary>>,
    /// Milliseconds between frames, while the model writes.
    pub frames: Vec<f32>,
}

pub fn style(ctx: &egui::Context) {
    ctx.all_styles_mut(|style| {
        style.text_styles.values_mut().for_each(|font| font.size *= 1.15);
        (style.spacing.item_spacing, style.spacing.button_padding) = (vec2(8.0, 8.0), vec2(10.0, 5.0));
        style.visuals.selection.bg_fill = ACCENT.gamma_multiply(0.6);
        style.visuals.slider_trailing_fill = true;
    });
}

impl App {
    pub fn new(context: Context, worker: Worker) -> Self {
        Self {
            context,
            worker,
            model: None,
            turns: Vec::new(),
            input: String::new(),
            options: GenerateOptions { max_tokens: Some(256), ..GenerateOptions::default() },
            writing: false,
            progress: None,
            error: None,
            summary: None,
            frames: Vec::new(),
        }
    }

    pub fn open(&mut self, path: Option<PathBuf>) {
        (self.model, self.error, self.writing) = (None, None, false);
        self.turns.clear();
        self.worker.commands.send(Command::Open(path));
    }

    pub fn write(&mut self) {
        let mut text = std::mem::take(&mut self.input);
        if !self.chats() && !self.turns.is_empty() && !text.is_empty() {
            text.insert(0, ' '); // all turns are one text
        }
        self.turns.push(Message::new("user", text));
        self.worker.commands.send(Command::Write(self.turns.clone(), self.options.clone()));
        self.turns.push(Message::new("assistant", ""));
        self.frames.clear();
        (self.error, self.writing) = (None, true);
    }

    pub fn stop(&self) {
        self.worker.commands.stop();
    }

    fn chats(&self) -> bool {
        self.model.as_ref().is_some_and(|(_, chats)| *chats)
    }

    fn hear(&mut self, event: Event) {
        self.progress = None;
        match event {
            Event::Progress(what, part) => self.progress = Some((what, part)),
            Event::Opened(report, chats) => {
                self.model = Some((report, chats));
                self.input = if chats { String::new() } else { halfbyte::embedded::PROMPT.into() };
            }
            Event::Text(piece, summary) => {
                self.turns.last_mut().into_iter().for_each(|answer| answer.content.push_str(&piece));
                self.summary = Some(summary);
            }
            Event::Written(summary) => (self.writing, self.summary) = (false, Some(summary)),
            Event::Failed(error) => {
                if self.writing && self.turns.pop_if(|answer| answer.content.is_empty()).is_some() {
                    self.input = self.turns.pop().map_or_else(String::new, |t| t.content); // to be said again
                }
                (self.error, self.writing) = (Some(error), false);
            }
        }
    }

    fn head(&mut self, ui: &mut Ui) {
        ui.menu_button("Open", |ui| {
            let models = rfd::AsyncFileDialog::new().add_filter("Models", &["gguf", "safetensors"]);
            if ui.button("File…").clicked() {
                self.ask(models.pick_file());
            } else if ui.button("Folder…").clicked() {
                self.ask(models.pick_folder());
            } else if ui.button("Embedded storyteller").clicked() {
                self.open(None);
            }
        });
        if let Some((r, _)) = &self.model {
            let (millions, bits) = (r.totals.parameters as f64 / 1e6, r.totals.bits_per_weight);
            ui.strong(&r.name);
            ui.weak(format!("{} · {} · {millions:.1} M weights of {bits:.2} bits", r.architecture, r.format));
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let dark = ui.visuals().dark_mode;
            if ui.button(if dark { "Light" } else { "Dark" }).clicked() {
                ui.set_theme(if dark { Theme::Light } else { Theme::Dark });
            }
        });
    }

    /// A dialog begins on the window's thread, as macOS wants it; another waits for its end.
    fn ask(&self, dialog: impl Future<Output = Option<rfd::FileHandle>> + Send + 'static) {
        let commands = self.worker.commands.clone();
        std::thread::spawn(move || {
            pollster::block_on(dialog).map(|found| commands.send(Command::Open(Some(found.path().into()))))
        });
    }

    fn side(&mut self, ui: &mut Ui) {
        ui.strong("Sampling");
        let SamplerOptions { temperature, top_k, top_p, min_p, repeat_penalty, .. } =
            &mut self.options.sampling;
        ui.add(Slider::new(temperature, 0.0..=2.0).text("temperature"));
        ui.add(Slider::new(top_k, 0..=200).text("top k"));
        ui.add(Slider::new(top_p, 0.01..=1.0).text("top p"));
        ui.add(Slider::new(min_p, 0.0..=0.5).text("min p"));
        ui.add(Slider::new(repeat_penalty, 1.0..=2.0).text("repetition"));
        let most = self.options.max_tokens.get_or_insert(256);
        ui.add(Slider::new(most, 1..=2048).logarithmic(true).text("most tokens"));
        if let Some((report, _)) = &self.model {
            ui.add_space(12.0);
            ui.strong("Layers");
            map::show(ui, report);
        }
    }

    fn foot(&mut self, ui: &mut Ui) {
        let recent = &self.frames[self.frames.len().saturating_sub(60)..];
        if let (Some(summary), false) = (&self.summary, recent.is_empty()) {
            let mean = recent.iter().sum::<f32>() / recent.len() as f32;
            ui.label(format!("{:.1} tokens/s", summary.decode_tokens_per_s));
            ui.weak(format!("frame {mean:.1} ms, {:.0} a second", 1e3 / mean));
        }
        let (bytes, adapter) = (self.context.allocated() as f64 / 1e6, &self.context.report().name);
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            ui.weak(format!("{bytes:.0} MB on {adapter}"))
        });
    }

    fn entry(&mut self, ui: &mut Ui) {
        let button = |text| egui::Button::new(text).min_size(vec2(84.0, 36.0));
        let something = !self.input.trim().is_empty() || !self.chats() && !self.turns.is_empty();
        let ready = something && self.model.is_some() && !self.writing;
        let stopped = self.writing && ui.add(button("Stop")).clicked();
        let mut go = !self.writing && ui.add_enabled(ready, button("Write")).clicked();
        let hint = if self.chats() { "Say something" } else { "Begin a story, add to it, or let it go on" };
        let field = egui::TextEdit::singleline(&mut self.input).hint_text(hint).margin(vec2(10.0, 9.0));
        let field = ui.add(field.desired_width(f32::INFINITY));
        go |= field.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
        if stopped {
            self.stop();
        } else if go && ready {
            self.write();
            field.request_focus();
        }
    }

    fn talk(&mut self, ui: &mut Ui) {
        if let Some((what, part)) = &self.progress {
            ui.add(egui::ProgressBar::new(*part).text(what));
        }
        if let Some(error) = &self.error {
            ui.colored_label(ui.visuals().error_fg_color, error);
        }
        egui::ScrollArea::vertical().auto_shrink(false).stick_to_bottom(true).show(ui, |ui| {
            let mut text = egui::text::LayoutJob::default();
            for turn in &self.turns {
                let answer = ui.visuals().widgets.hovered.text_color();
                let color = if turn.role == "user" { ACCENT } else { answer };
                let format = egui::TextFormat::simple(FontId::proportional(17.0), color);
                let format = egui::TextFormat { line_height: Some(26.0), ..format };
                text.append(&turn.content, 0.0, format.clone());
                text.append(if self.chats() { "\n\n" } else { "" }, 0.0, format);
            }
            ui.label(text);
        });
    }
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut Ui, _: &mut eframe::Frame) {
        let ctx = ui.ctx().clone();
        if self.writing {
            self.frames.push(ctx.input(|i| i.unstable_dt) * 1e3);
            ctx.request_repaint(); // as often as the screen can, so that the frame time says something
        }
        while let Ok(event) = self.worker.events.try_recv() {
            self.hear(event);
        }
        if self.worker.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.error = Some("the model's thread has ended; start again".into());
        }
        let dropped = ctx.input(|i| i.raw.dropped_files.first().map(|file| file.path().to_owned()));
        dropped.into_iter().for_each(|path| self.open(Some(path)));

        let bar = Frame::side_top_panel(ui.style()).inner_margin(Margin::symmetric(16, 10));
        let page = Frame::central_panel(ui.style()).inner_margin(20.0);
        egui::Panel::top("head").frame(bar).show(ui, |ui| ui.horizontal_centered(|ui| self.head(ui)));
        egui::Panel::bottom("foot").frame(bar).show(ui, |ui| ui.horizontal(|ui| self.foot(ui)));
        egui::Panel::right("side").frame(bar).exact_size(320.0).show(ui, |ui| self.side(ui));
        egui::Panel::bottom("entry")
            .frame(bar)
            .exact_size(60.0)
            .show(ui, |ui| ui.with_layout(Layout::right_to_left(Align::Center), |ui| self.entry(ui)));
        egui::CentralPanel::default().frame(page).show(ui, |ui| self.talk(ui));
        if ctx.input(|i| !i.raw.hovered_files.is_empty()) {
            let (screen, font) = (ctx.content_rect(), FontId::proportional(26.0));
            ui.painter().rect_filled(screen, 0.0, Color32::from_black_alpha(180));
            ui.painter().text(screen.center(), Align2::CENTER_CENTER, "Drop a model", font, Color32::WHITE);
        }
    }

    /// The model's thread is done with the GPU before the window's device goes.
    fn on_exit(&mut self) {
        self.worker.commands.send(Command::Quit);
        self.worker.thread.take().map(JoinHandle::join);
    }
}
