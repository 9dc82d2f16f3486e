fn main() -> std::process::ExitCode {
    bft2::cli::main()
}
