//! The command line: one file a verb. Only this folder prints.

pub mod config;
pub mod error;
pub mod progress;

pub fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let config = crate::config::load(std::path::Path::new(&args[0]), &args[2..]).unwrap();
    let r = crate::train::train(&config, std::path::Path::new(&args[1]), progress::observer(false));
    match r {
        Ok(a) => println!("{a:?}"),
        Err(e) => eprintln!("error: {e}"),
    }
    std::process::ExitCode::SUCCESS
}
