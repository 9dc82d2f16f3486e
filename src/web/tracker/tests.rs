use super::*;

fn seed_and_leecher() -> (Announce, Announce) {
    let seed = parse_announce(
        "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=ssssssssssssssssssss&port=7001&uploaded=0&downloaded=0&left=0&compact=1&event=started",
    );
    let leecher = parse_announce("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=llllllllllllllllllll&port=7002&left=9&compact=1");
    (seed.unwrap(), leecher.unwrap())
}

fn has(reply: &[u8], part: &[u8]) -> bool {
    reply.windows(part.len()).any(|w| w == part)
}

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 5));

#[test]
fn raw_bytes_are_decoded() {
    assert_eq!(decode("a%00%fFz+-%2B"), Some(vec![b'a', 0, 255, b'z', b' ', b'-', b'+']));
    assert_eq!(decode("%"), None);
    assert_eq!(decode("%0"), None);
    assert_eq!(decode("%zz"), None);
}

#[test]
fn bad_announces_get_reasons() {
    let good = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=ssssssssssssssssssss&port=7001";
    assert!(parse_announce(good).is_ok());
    for bad in ["", "info_hash=short&peer_id=ssssssssssssssssssss&port=1", "info_hash=aaaaaaaaaaaaaaaaaaaa&port=1"] {
        assert!(parse_announce(bad).is_err(), "{bad}");
    }
    for port in ["0", "65536", "-1", "x", ""] {
        let query = format!("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=ssssssssssssssssssss&port={port}");
        assert_eq!(parse_announce(&query), Err("port is missing or is not a port"), "{port}");
    }
    let many = parse_announce(&format!("{good}&numwant=99999999")).unwrap();
    assert_eq!((many.want, many.left), (MAX_WANT, u64::MAX));
    assert_eq!(parse_announce(&format!("{good}&numwant=-1")).unwrap().want, DEFAULT_WANT);
}

#[test]
fn members_learn_of_each_other_but_seeds_not_of_seeds() {
    let state = TrackerState::new(TrackerOptions::default());
    let (seed, leecher) = seed_and_leecher();
    let now = Instant::now();
    let alone = state.announce(now, IP, &seed).unwrap();
    assert_eq!(String::from_utf8_lossy(&alone), "d8:completei1e10:incompletei0e8:intervali30e12:min intervali15e5:peers0:e");
    let reply = state.announce(now, IP, &leecher).unwrap();
    assert!(has(&reply, b"5:peers6:\xc0\x00\x02\x05\x1b\x59"), "{reply:?}");
    let reply = state.announce(now, IP, &Announce { port: 7003, ..seed_and_leecher().0 }).unwrap();
    assert!(has(&reply, b"5:peers6:\xc0\x00\x02\x05\x1b\x5a"), "only the leecher: {reply:?}");
    let reply = state.announce(now, IP, &Announce { compact: false, ..seed_and_leecher().0 }).unwrap();
    assert!(has(&reply, b"5:peersld2:ip9:192.0.2.57:peer id20:llllllllllllllllllll4:porti7002eee"), "{reply:?}");
    let v6 = state.announce(now, "2001:db8::1".parse().unwrap(), &leecher).unwrap();
    assert!(has(&v6, b"5:peers18:"), "{v6:?}");
    assert!(has(&state.announce(now, IP, &seed).unwrap(), b"6:peers618:\x20\x01\x0d\xb8"));
}

#[test]
fn stopped_and_silent_members_are_forgotten() {
    let state = TrackerState::new(TrackerOptions::default());
    let (seed, leecher) = seed_and_leecher();
    let now = Instant::now();
    state.announce(now, IP, &seed).unwrap();
    state.announce(now, IP, &leecher).unwrap();
    state.announce(now, IP, &Announce { event: Event::Stopped, ..seed_and_leecher().0 }).unwrap();
    assert_eq!(state.counts(), TrackerCounts { swarms: 1, peers: 1 });
    let later = now + Duration::from_secs(121);
    let reply = state.announce(later, IP, &seed).unwrap();
    assert!(has(&reply, b"10:incompletei0e"));
    state.announce(later, IP, &Announce { event: Event::Stopped, ..seed_and_leecher().0 }).unwrap();
    assert_eq!(state.counts(), TrackerCounts::default());
    state.announce(later, IP, &Announce { event: Event::Stopped, ..leecher }).unwrap();
    assert_eq!(state.counts(), TrackerCounts::default());
}

#[test]
fn completions_are_counted_once_and_scraped() {
    let state = TrackerState::new(TrackerOptions::default());
    let (_, leecher) = seed_and_leecher();
    let now = Instant::now();
    state.announce(now, IP, &leecher).unwrap();
    let done = Announce { left: 0, event: Event::Completed, ..leecher };
    state.announce(now, IP, &done).unwrap();
    state.announce(now, IP, &done).unwrap();
    let reply = state.scrape(now, &[*b"aaaaaaaaaaaaaaaaaaaa", *b"unknownunknownunknow"]).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&reply),
        "d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi1e10:incompletei0eeee"
    );
    assert!(state.scrape(now, &[]).is_err());
}

#[test]
fn bounds_hold() {
    let options = TrackerOptions { max_swarms: 2, max_peers_per_swarm: 3, ..TrackerOptions::default() };
    let state = TrackerState::new(options);
    let now = Instant::now();
    let (_, leecher) = seed_and_leecher();
    for port in 1..=9 {
        state.announce(now, IP, &Announce { port, ..seed_and_leecher().1 }).unwrap();
    }
    assert_eq!(state.counts().peers, 3);
    state.announce(now, IP, &Announce { info_hash: [2; 20], ..seed_and_leecher().1 }).unwrap();
    let third = Announce { info_hash: [3; 20], ..leecher };
    assert_eq!(state.announce(now, IP, &third), Err("this tracker is full, try again later"));
    assert!(state.announce(now + Duration::from_secs(200), IP, &third).is_ok(), "silent swarms make room");
}

#[test]
fn only_allowed_torrents_are_tracked() {
    let state = TrackerState::new(TrackerOptions::default()).only(Box::new(|h| h[0] == b'z'));
    let (seed, _) = seed_and_leecher();
    let refused = state.announce(Instant::now(), IP, &seed).unwrap_err();
    assert!(refused.contains("not authorized"));
    assert!(state.announce(Instant::now(), IP, &Announce { info_hash: [b'z'; 20], ..seed }).is_ok());
}
