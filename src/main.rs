#[global_allocator]
static MEMORY: panscreen::memory::CacheLines = panscreen::memory::CacheLines;

fn main() -> std::process::ExitCode {
    panscreen::cli::main()
}
