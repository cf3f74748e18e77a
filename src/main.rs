fn main() -> std::process::ExitCode {
    panscreen::cli::main()
}
