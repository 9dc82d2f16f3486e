//! `bftv2 tracker`: a BitTorrent tracker on its own, for centres whose sender is not to be one.

use super::exit::{Exit, Failure, Outcome};
use crate::web::tracker::{TrackerOptions, TrackerState, tracker};
use clap::Args;
use poem::Server;
use poem::listener::{Acceptor, Listener, TcpListener};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  bftv2 tracker
  bftv2 tracker --listen 0.0.0.0:6969";

/// How long a started announce may take to end.
const DRAIN: Duration = Duration::from_secs(3);

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
        let trouble = |e: std::io::Error| Failure::local(format!("cannot run a tracker on {}: {e}", self.listen));
        let acceptor = TcpListener::bind(self.listen).into_acceptor().await.map_err(trouble)?;
        let address = acceptor.local_addr().into_iter().find_map(|a| a.as_socket_addr().copied()).unwrap_or(self.listen);
        println!("tracker at http://{address}/announce");
        let signal = super::stop_signal()?;
        let state = Arc::new(TrackerState::new(TrackerOptions::default()));
        Server::new_with_acceptor(acceptor)
            .run_with_graceful_shutdown(tracker(state), signal, Some(DRAIN))
            .await
            .map_err(trouble)?;
        Ok(Exit::Ok)
    }
}
