//! The same as an `async` stream on a device that the program itself has made, as an app with its own wgpu
//! window would; cancels after 50 pieces by dropping the stream.
//!
//!     cargo run --release --example stream

use futures_util::StreamExt;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::gpu::Context;
use halfbyte::model::LoadOptions;
use halfbyte::session::GenerateOptions;
use halfbyte::{Device, Error, Session};

async fn story() -> halfbyte::Result<()> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let missing = |e: &dyn std::fmt::Display| Error::AdapterMissing(e.to_string());
    let adapter = instance.request_adapter(&Default::default()).await.map_err(|e| missing(&e))?;
    let (device, queue) = adapter.request_device(&Default::default()).await.map_err(|e| missing(&e))?;

    let device = Device::Gpu(Context::from_device(device, queue)?);
    let checkpoint = Checkpoint::open("models/tale.gguf").await?;
    let mut session = Session::load(&device, &checkpoint, &LoadOptions::default(), |_| {}).await?;
    let pieces = session.generate("One day", &GenerateOptions::default())?.into_stream();
    let mut pieces = std::pin::pin!(pieces.take(50));
    while let Some(piece) = pieces.next().await {
        print!("{}", piece?);
    }
    println!();
    Ok(())
}

fn main() -> halfbyte::Result<()> {
    pollster::block_on(story())
}
