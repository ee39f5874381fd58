//! A window that talks with a model: halfbyte embedded in an app, on the GPU that draws the window.
//!
//! To copy: the shared device (here), the model's thread ([`worker`]), the picture of a model ([`map`]).

pub mod app;
pub mod map;
pub mod worker;

use app::App;
use eframe::{egui, egui_wgpu};
use halfbyte::gpu::{Context, Options};
use halfbyte::model::CacheFormat;
use halfbyte::{Device, Error};
use std::path::PathBuf;
use std::sync::Arc;

/// Shows the window until it is closed; `wrap` lets a test stand between it and eframe.
pub fn run<A: eframe::App + 'static>(
    model: Option<PathBuf>,
    precision: CacheFormat,
    wrap: impl FnOnce(App) -> A,
) -> eframe::Result {
    // The window's device is the model's as well: made with all that halfbyte can use, not with what egui needs.
    let mut setup = egui_wgpu::WgpuSetupCreateNew::without_display_handle();
    setup.device_descriptor = Arc::new(|adapter| Options::default().device_descriptor(adapter));
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default().with_inner_size([1080.0, 720.0]),
        wgpu_options: egui_wgpu::WgpuConfiguration { wgpu_setup: setup.into(), ..Default::default() },
        ..Default::default()
    };
    let create = move |window: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, _> {
        let state = window.wgpu_render_state.as_ref().ok_or(Error::AdapterMissing("no wgpu".into()))?;
        let context = Context::from_device(state.device.clone(), state.queue.clone())?;
        app::style(&window.egui_ctx);
        let ctx = window.egui_ctx.clone();
        let worker = worker::start(Device::Gpu(context.clone()), precision, move || ctx.request_repaint());
        worker.commands.send(worker::Command::Open(model));
        Ok(Box::new(wrap(App::new(context, worker))))
    };
    eframe::run_native("halfbyte", options, Box::new(create))
}
