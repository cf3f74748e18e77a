//! The command line: one file a verb. Only this folder prints.

pub mod config;
pub mod error;
pub mod progress;

pub fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args[0] == "demo" {
        match crate::demo::run(args[1].parse().unwrap(), std::path::Path::new(&args[2]), progress::observer(false)) {
            Ok(s) => println!("{s}"),
            Err(e) => eprintln!("error: {e}"),
        }
        return std::process::ExitCode::SUCCESS;
    }
    let config = crate::config::load(std::path::Path::new(&args[0]), &args[2..]).unwrap();
    let r = crate::train::train(&config, std::path::Path::new(&args[1]), progress::observer(false));
    match r {
        Ok(a) => println!("{a:?}"),
        Err(e) => eprintln!("error: {e}"),
    }
    std::process::ExitCode::SUCCESS
}
