//! `bftv2 openapi`: the document that the service also serves at `/openapi.json`.

use super::exit::{Exit, Outcome};
use clap::Args;

const EXAMPLES: &str = "\
Examples:
  bftv2 openapi > openapi/bft2.json
  bftv2 openapi --yaml | less";

/// Print the OpenAPI document of the HTTP interface
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OpenapiArgs {
    /// YAML instead of JSON
    #[arg(long)]
    yaml: bool,
}

impl OpenapiArgs {
    pub fn run(self) -> Outcome {
        let text = if self.yaml { crate::api::spec_yaml() } else { crate::api::spec_json() };
        println!("{}", text.trim_end());
        Ok(Exit::Ok)
    }
}
