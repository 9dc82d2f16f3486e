//! `bftv2 tracker`: a BitTorrent tracker on its own, for centres whose sender is not to be one.

use super::exit::{Exit, Outcome};
use crate::web::listen::listen;
use crate::web::tracker::{TrackerOptions, TrackerState, tracker};
use clap::Args;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  bftv2 tracker
  bftv2 tracker --listen 0.0.0.0:6969";

/// Run a BitTorrent tracker alone
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TrackerArgs {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6969")]
    listen: SocketAddr,
}

impl TrackerArgs {
    pub async fn run(self) -> Outcome {
        let signal = super::stop_signal()?;
        let stop = CancellationToken::new();
        let routes = tracker(Arc::new(TrackerState::new(TrackerOptions::default())));
        let server = listen(self.listen, "--listen", routes, &stop).await?;
        println!("tracker at http://{}/announce", server.addr);
        signal.await;
        stop.cancel();
        let _ = server.done.await;
        Ok(Exit::Ok)
    }
}
