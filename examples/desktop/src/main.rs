//! cargo run --release -- [MODEL]

fn main() -> eframe::Result {
    let model = std::env::args_os().nth(1).map(Into::into);
    halfbyte_desktop::run(model, halfbyte::model::CacheFormat::default(), |app| app)
}
