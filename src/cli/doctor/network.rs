//! What is reached over the network: the service itself, its ports, tracker, object store, origin. All at once, each for a
//! few seconds at most.

use super::Finding;
use crate::config::Config;
use crate::model::endpoint::shown;
use crate::model::task::NodeType;
use crate::transport::obs::{EndpointFrom, ObsLocation, ObsOptions, ObsTransport};
use futures::FutureExt as _;
use futures::future::join_all;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// For each thing that is asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first message of a UDP tracker (BEP 15).
const UDP_CONNECT: u64 = 0x417_2710_1980;

/// What the service's own address said.
enum Service {
    Runs,
    Away,
}

pub(super) async fn checks(config: &Config) -> Vec<Finding> {
    let http = match reqwest::Client::builder().no_proxy().connect_timeout(PATIENCE).timeout(PATIENCE).build() {
        Ok(http) => http,
        Err(e) => return vec![Finding::fail("network", format!("no HTTP client: {e}"), "see the log")],
    };
    let (service, mut out) = service(&http, config).await;
    let away = matches!(service, Service::Away);
    let http = &http;
    let asked = [
        async move { tracker(http, config).await }.boxed(),
        async move { objects(config).await }.boxed(),
        async move { web(http, "cdn", "cdnurl", config.cdnurl.as_deref()).await }.boxed(),
        async move { web(http, "origin", "senderdomain", config.senderdomain.as_deref()).await }.boxed(),
    ];
    let (ports, asked) = tokio::join!(ports(config, away), join_all(asked));
    out.extend(ports);
    // What goes into tasks matters where tasks are made. And a sender may be asked for what it serves itself.
    let own = away && (config.weblisten.is_some() || config.trackerlisten.is_some());
    for mut finding in asked.into_iter().flatten() {
        if finding.level == super::Level::Fail
            && (config.servertype != NodeType::Sender || (own && finding.name != "object store"))
        {
            finding.level = super::Level::Warn;
            if own {
                finding.todo = format!("if this node serves it: start the service and ask again; else {}", finding.todo);
            }
        }
        out.push(finding);
    }
    out
}

/// Where an address that listens everywhere is reached from here.
fn here(at: SocketAddr) -> SocketAddr {
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, at.port())
}

async fn service(http: &reqwest::Client, config: &Config) -> (Service, Vec<Finding>) {
    let at = here(config.listen);
    let health = async {
        let answer = http.get(format!("http://{at}/v1/health")).send().await?;
        answer.text().await
    };
    let text = match health.await {
        Ok(text) => text,
        Err(e) if e.is_connect() => {
            let finding = Finding::warn("service", format!("nobody answers at {at}"), "start it: systemctl start bftv2");
            return (Service::Away, vec![finding]);
        }
        Err(e) => {
            let text = format!("{at} does not answer: {}", e.without_url());
            return (Service::Runs, vec![Finding::fail("service", text, "see the log; systemctl restart bftv2")]);
        }
    };
    let health: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let word = |key: &str| health.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let mine = env!("CARGO_PKG_VERSION");
    let finding = match (word("status").as_str(), word("version")) {
        ("ok", version) if version != mine => {
            let text = format!("version {version} runs, this program is {mine}");
            Finding::warn("service", text, "restart it after an upgrade: systemctl restart bftv2")
        }
        ("ok", _) if word("role") != config.servertype.as_str() => {
            let text = format!("a {} answers at {at}, the configuration is that of a {}", word("role"), config.servertype);
            Finding::fail("service", text, "give each node a listen of its own, or restart the service")
        }
        ("ok", version) => Finding::ok("service", format!("version {version} runs at {at}")),
        _ => {
            let todo = "end that program (ss -ltnp), or choose another listen";
            Finding::fail("service", format!("another program answers at {at}"), todo)
        }
    };
    (Service::Runs, vec![finding])
}

/// Each address is free while the service is away, and held while it runs.
async fn ports(config: &Config, away: bool) -> Vec<Finding> {
    let all = [
        ("listen", Some(config.listen)),
        ("btlisten", Some(config.btlisten)),
        ("weblisten", config.weblisten),
        ("trackerlisten", config.trackerlisten),
    ];
    let mut out = Vec::new();
    for (key, at) in all.iter().filter_map(|(key, at)| at.map(|at| (*key, at))) {
        if away {
            out.extend(TcpListener::bind(at).err().map(|e| taken(key, at, &e)));
        } else if !timeout(PATIENCE, TcpStream::connect(here(at))).await.is_ok_and(|s| s.is_ok()) {
            let text = format!("the service runs, but nobody listens at {at} ({key})");
            out.push(Finding::warn("ports", text, "restart it: its configuration was changed since its start"));
        }
    }
    if out.is_empty() {
        out.push(Finding::ok("ports", if away { "all of them are free" } else { "all of them answer" }));
    }
    out
}

fn taken(key: &str, at: SocketAddr, e: &std::io::Error) -> Finding {
    let todo = match e.kind() {
        ErrorKind::AddrInUse => format!("end the program that holds it (ss -ltnp), or choose another {key}"),
        ErrorKind::PermissionDenied => format!("choose a port above 1023 for {key}, or give the service CAP_NET_BIND_SERVICE"),
        _ => format!("{key} must be an address of this machine (ip addr)"),
    };
    Finding::fail("ports", format!("cannot listen on {at} ({key}): {e}"), todo)
}

async fn tracker(http: &reqwest::Client, config: &Config) -> Option<Finding> {
    let url = config.tracker.as_deref()?;
    let named = shown(url);
    let todo = "mend the tracker or the firewall, or correct the key tracker; btpeers helps while it is away";
    let answer = match url.starts_with("udp://") {
        true => timeout(PATIENCE, udp_tracker(url)).await.unwrap_or_else(|_| Err("no answer in time".into())),
        false => {
            // A peer that leaves a torrent that nobody has: any tracker has an answer, and keeps nothing.
            let mark = if url.contains('?') { '&' } else { '?' };
            let hash = "%00".repeat(20);
            let query = format!(
                "info_hash={hash}&peer_id=-BF2000-000000000000&port=1&uploaded=0&downloaded=0&left=1&compact=1&event=stopped"
            );
            match http.get(format!("{url}{mark}{query}")).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(format!("it answers with status {}", answer.status().as_u16())),
                Err(e) => Err(cause(e)),
            }
        }
    };
    Some(match answer {
        Ok(()) => Finding::ok("tracker", format!("{named} answers")),
        Err(why) => Finding::fail("tracker", format!("{named}: {why}"), todo),
    })
}

async fn udp_tracker(url: &str) -> Result<(), String> {
    let parsed = url::Url::parse(url).map_err(|e| e.to_string())?;
    let (host, port) = parsed.host_str().zip(parsed.port()).ok_or("the address has no port")?;
    let host = host.trim_matches(['[', ']']);
    let to = tokio::net::lookup_host((host, port)).await.map_err(|e| e.to_string())?.next().ok_or("the name has no address")?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|e| e.to_string())?;
    socket.connect(to).await.map_err(|e| e.to_string())?;
    let transaction: u32 = rand::random();
    let ask = [&UDP_CONNECT.to_be_bytes()[..], &0u32.to_be_bytes(), &transaction.to_be_bytes()].concat();
    socket.send(&ask).await.map_err(|e| e.to_string())?;
    let mut answer = [0u8; 64];
    let got = socket.recv(&mut answer).await.map_err(|e| e.to_string())?;
    let fits = got >= 16 && answer.get(4..8) == Some(&transaction.to_be_bytes()[..]);
    if fits { Ok(()) } else { Err("what answers there is no tracker".into()) }
}

/// With the code and the keys of deliveries.
async fn objects(config: &Config) -> Option<Finding> {
    let endpoint = config.obsendpoint.as_ref()?;
    let bucket = match (&config.obsurl, &config.basesubdir) {
        (Some(url), _) => url.to_string(),
        (None, Some(subdir)) => format!("obs://{subdir}"),
        (None, None) => return None,
    };
    let place = format!("{bucket} at {}", shown(endpoint.as_str()));
    let mut options = ObsOptions { connect_timeout: PATIENCE, ..ObsOptions::default() };
    options.ranged.period = PATIENCE;
    let probe = async {
        let location = ObsLocation::parse(
            &bucket,
            endpoint.as_str(),
            config.obsak.reveal(),
            config.obssk.reveal(),
            EndpointFrom::OwnConfig,
        )?;
        ObsTransport::new(location, options)?.probe().await
    };
    Some(match timeout(PATIENCE * 2, probe).await {
        Ok(Ok(())) => Finding::ok("object store", format!("{place} answers and takes the keys")),
        Ok(Err(fault)) => {
            let text = format!("{place}: {}", fault.message);
            Finding::fail("object store", text, "correct obsendpoint, obsurl, obsak or obssk, or the rights of the keys")
        }
        Err(_) => {
            Finding::fail("object store", format!("{place} does not answer in time"), "correct obsendpoint, or open the firewall")
        }
    })
}

async fn web(http: &reqwest::Client, name: &'static str, key: &str, base: Option<&str>) -> Option<Finding> {
    let base = base?;
    let named = shown(base);
    Some(match http.get(format!("{base}/dcp/")).send().await {
        Ok(answer) if answer.status().is_server_error() => {
            let text = format!("{named} answers with status {}", answer.status().as_u16());
            Finding::fail(name, text, format!("mend the web server behind {key}"))
        }
        Ok(_) => Finding::ok(name, format!("{named} answers")),
        Err(e) => Finding::fail(
            name,
            format!("{named}: {}", cause(e)),
            format!("mend the web server or the firewall, or correct {key}"),
        ),
    })
}

/// The innermost reason, without the address: it may hold a key.
fn cause(e: reqwest::Error) -> String {
    let e = e.without_url();
    if e.is_timeout() {
        return "no answer in time".into();
    }
    let mut inner: &dyn std::error::Error = &e;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
