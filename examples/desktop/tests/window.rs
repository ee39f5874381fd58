//! The window writes what the CPU writes, while it draws. The test starts an X server without a screen and itself
//! once more, with the window; there it stands between the app and eframe, types, and closes it when all is written.

use eframe::egui;
use halfbyte::model::{CacheFormat, LoadOptions};
use halfbyte::sampler::SamplerOptions;
use halfbyte::session::GenerateOptions;
use halfbyte::{Device, Session, embedded};
use halfbyte_desktop::app::App;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The folder for pictures and reports; set where the window is to be shown.
const FOLDER: &str = "HALFBYTE_WINDOW_TEST";
const TOKENS: usize = 48;
/// The longest that it may take, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(1800);

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let wrap = |app| Visitor { app, folder: folder.into(), step: 0 };
        return halfbyte_desktop::run(None, CacheFormat::F32, wrap).expect("a window");
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("window");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let display = Display::start();
    let mut window = Command::new(std::env::current_exe().expect("this test"))
        .env(FOLDER, &folder)
        .env("DISPLAY", &display.1)
        .env("WGPU_BACKEND", "vulkan")
        .env_remove("VK_ADD_DRIVER_FILES") // SwiftShader's
        .env_remove("WAYLAND_DISPLAY")
        .spawn()
        .expect("the window starts");
    let begin = Instant::now();
    let ended = loop {
        match window.try_wait().expect("its state") {
            Some(ended) => break ended,
            None if begin.elapsed() > PATIENCE => {
                let _ = window.kill();
                panic!("the window is not done after {PATIENCE:?}");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    assert!(ended.success(), "the window ended with {ended}");
    check(&folder);
    println!("test result: ok, pictures are in {}", folder.display());
}

/// An X server without a screen; it ends with the test.
struct Display(Child, String);

impl Display {
    fn start() -> Self {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is installed");
        let mut number = String::new();
        let stdout = server.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut number).expect("Xvfb says which display it took");
        Self(server, format!(":{}", number.trim()))
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stands between the window and eframe.
struct Visitor {
    app: App,
    folder: PathBuf,
    step: usize,
}

impl eframe::App for Visitor {
    fn ui(&mut self, ui: &mut egui::Ui, frame: &mut eframe::Frame) {
        self.app.ui(ui, frame);
        let (ctx, app) = (ui.ctx().clone(), &mut self.app);
        ctx.request_repaint();
        assert!(self.step >= 7 || app.error.is_none(), "{:?}", app.error);
        let [dark, light] = ["dark.png", "light.png"].map(|name| self.folder.join(name));
        match self.step {
            // Greedily, to be compared.
            0 if !app.input.is_empty() => {
                assert_eq!(app.input, embedded::PROMPT);
                ctx.set_theme(egui::Theme::Dark);
                app.options.max_tokens = Some(TOKENS);
                app.options.sampling = SamplerOptions::greedy();
                app.write();
            }
            1 if !app.writing => {
                let summary = app.summary.clone().expect("a summary");
                let report = serde_json::json!({
                    "tokens": summary.token_ids,
                    "frame_ms": app.frames,
                    "decode_tokens_per_s": summary.decode_tokens_per_s,
                });
                std::fs::write(self.folder.join("report.json"), report.to_string()).expect("a report");
                app.options.max_tokens = Some(1500);
                app.input = "The cat was".into();
                app.write();
            }
            // A long text, to be stopped after some frames: a window that waits for the model sees it end first.
            2 if app.frames.len() >= 4 || !app.writing => app.stop(),
            3 if !app.writing => {
                let summary = app.summary.clone().expect("a summary");
                assert_eq!(summary.finish_reason, None, "it was not drawn while it wrote");
                picture(&ctx, dark);
            }
            4 if dark.exists() => ctx.set_theme(egui::Theme::Light),
            5 => picture(&ctx, light),
            6 if light.exists() => app.open(Some("no/such/model.gguf".into())),
            7 if app.error.is_some() => {
                assert!(
                    app.error.as_ref().is_some_and(|e| e.contains("no/such/model.gguf")),
                    "{:?}",
                    app.error
                );
                ctx.send_viewport_cmd(egui::ViewportCommand::Close);
            }
            _ => return,
        }
        self.step += 1;
    }

    fn on_exit(&mut self) {
        self.app.on_exit();
    }
}

fn picture(ctx: &egui::Context, path: PathBuf) {
    ctx.request_screenshot(move |picture| {
        let ([width, height], color) = (picture.size.map(|n| n as u32), image::ColorType::Rgba8);
        image::save_buffer(path, picture.as_raw(), width, height, color).expect("the picture is written");
    });
}

/// Greedy tokens of the embedded model on the CPU, in f32.
fn expected() -> halfbyte::Result<Vec<u32>> {
    pollster::block_on(async {
        let checkpoint = embedded::open().await?;
        let options = LoadOptions { precision: CacheFormat::F32, ..LoadOptions::default() };
        let mut session = Session::load(&Device::Cpu, &checkpoint, &options, |_| {}).await?;
        let sampling = SamplerOptions::greedy();
        let options = GenerateOptions { max_tokens: Some(TOKENS), sampling, ..GenerateOptions::default() };
        let mut generation = session.generate(embedded::PROMPT, &options)?;
        generation.wait()?;
        Ok(generation.summary().token_ids)
    })
}

/// What the window has left in `folder`.
fn check(folder: &Path) {
    let report = std::fs::read(folder.join("report.json")).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    let numbers = |key: &str| -> Vec<f64> {
        report[key].as_array().expect(key).iter().map(|n| n.as_f64().expect("a number")).collect()
    };
    let expected = expected().expect("the CPU writes");
    assert_eq!(expected.len(), TOKENS);
    assert_eq!(numbers("tokens"), expected.into_iter().map(f64::from).collect::<Vec<_>>());

    let (mut frames, speed) = (numbers("frame_ms"), &report["decode_tokens_per_s"]);
    frames.sort_by(f64::total_cmp);
    let median = frames.get(frames.len() / 2).copied().unwrap_or_default();
    let longest = frames.last().copied().unwrap_or_default();
    println!(
        "{} frames for {TOKENS} tokens at {speed:.4} tokens/s: median {median:.1} ms, longest {longest:.1} ms",
        frames.len()
    );
    for name in ["dark.png", "light.png"] {
        let picture = image::open(folder.join(name)).expect(name).to_rgb8();
        assert_eq!(picture.dimensions(), (1080, 720), "{name}");
        let colors: std::collections::HashSet<_> = picture.pixels().collect();
        assert!(colors.len() > 50, "{name}: {} colours, so nothing was drawn", colors.len());
    }
}
