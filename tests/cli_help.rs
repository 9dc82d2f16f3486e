//! The command line from outside: every command explains itself, and exit codes are what the help promises.

#[path = "world/ports.rs"]
#[allow(dead_code)]
mod ports;

use bft2::cli::exit::{EXIT_CODES, Exit};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn bftv2(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bftv2"))
        .args(args)
        .env_remove("BFT2_URL")
        .env_remove("BFT2_TOKEN")
        .stdin(Stdio::null())
        .output()
        .expect("bftv2 starts")
}

fn code(out: &Output) -> i32 {
    out.status.code().expect("ended by itself")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A service that gives one answer to one call, whatever is asked; returns its URL and what it heard.
fn answering(body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut request = Vec::new();
        let mut byte = [0];
        // The head, then as many bytes as it announces.
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("reads") == 1 {
            request.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
        let mut content = vec![0; length];
        stream.read_exact(&mut content).expect("the body");
        request.extend(content);
        let reply = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(reply.as_bytes()).expect("writes");
        String::from_utf8_lossy(&request).into_owned()
    });
    (url, heard)
}

#[test]
fn every_command_has_examples_of_itself() {
    let commands: Vec<_> = bft2::cli::command().get_subcommands().cloned().collect();
    assert!(commands.len() >= 17, "{} commands", commands.len());
    for command in commands {
        let name = command.get_name().to_owned();
        let out = bftv2(&[&name, "--help"]);
        assert_eq!(code(&out), 0, "{name}");
        let help = text(&out.stdout);
        assert!(help.contains("Examples:"), "{name} --help has no examples");
        assert!(help.contains(&format!("bftv2 {name}")), "{name} --help has no example of {name}");
        assert!(command.get_about().is_some(), "{name} does not say what it is for");
        assert!(help.contains("--config"), "{name} does not take --config");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some() || arg.get_id() == "help", "{name}: {} is not explained", arg.get_id());
        }
    }
}

#[test]
fn exit_codes_are_documented() {
    let help = text(&bftv2(&["--help"]).stdout);
    assert!(help.contains(EXIT_CODES), "{help}");
    for exit in [Exit::Ok, Exit::Refused, Exit::Usage, Exit::Unreachable, Exit::NotFinished, Exit::Local, Exit::Interrupted] {
        let line = format!("\n  {:<4} ", exit as u8);
        assert!(EXIT_CODES.contains(&line), "{exit:?} is not in the help");
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["nonsense"][..],
        &["progress"],
        &["demo", "--size", "lots"],
        &["demo", "--ratio", "0:0:0"],
        &["progress", "a", "--url", "ftp://127.0.0.1/"],
        &["gentask", "/data/film"],
        &["hash"],
        &["hash", "add"],
        &["sql", "select 1", "--timeout", "0"],
    ] {
        let out = bftv2(args);
        assert_eq!(code(&out), 2, "{args:?}: {}", text(&out.stderr));
        assert!(!out.stderr.is_empty(), "{args:?} says nothing");
    }
}

#[test]
fn no_service_is_3_and_says_where_it_looked() {
    // Nobody else gets it, nor does a call come from it.
    let [free] = ports::free_ports();
    let url = format!("http://{free}");
    let dcp = "/data/dcp/cfec-001/dcps/film";
    for args in [
        &["gentask", dcp][..],
        &["query", dcp],
        &["send", "/x/a.task.json"],
        &["recv", "/x/a.task.json"],
        &["progress", "a"],
        &["uprogress", "a"],
        &["cprogress", "a"],
        &["cancel", "a"],
        &["priority", "a", "-5"],
        &["hash", "add", dcp],
        &["hash", "init", "--watch"],
        &["hash", "status"],
        &["progress", "a", "--watch"],
        &["version", "--service"],
    ] {
        let out = bftv2(&[args, &["--url", &url]].concat());
        assert_eq!(code(&out), 3, "{args:?}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(&free.to_string()), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn answers_become_exit_codes() {
    let cases: [(&[&str], &str, i32, &str); 10] = [
        (&["hash", "add", "/data"], r#"{"queued":2,"known":1,"gone":0,"skipped":0}"#, 0, "2 to hash, 1 known, 0 gone"),
        (&["hash", "status"], r#"{"files":0,"bytes":0,"scanning":false}"#, 0, "nothing to hash"),
        (&["hash", "status"], r#"{"files":2,"bytes":1000,"scanning":false}"#, 4, "2 files, 1.00 kB to hash"),
        (&["priority", "a", "7"], r#"{"priority":7,"state":"queues"}"#, 0, "a.task.json has priority 7; it is in queues"),
        (&["cancel", "a"], r#"{"return_status":"true","return_content":{"desc":"succeed!"}}"#, 0, "succeed!"),
        (&["cancel", "a"], r#"{"return_status":"false","return_content":{"desc":"no"}}"#, 1, "refused: no"),
        (&["uprogress", "a"], r#"{"message_status":"true","return_content":{"status":"ready"}}"#, 0, "ready"),
        (&["uprogress", "a"], r#"{"return_status":"true","return_content":{"status":"uploading"}}"#, 4, "uploading"),
        (
            &["progress", "a"],
            r#"{"return_status":"true","return_content":{"status":"downloading","totalpercent":"50.000%","totalbytes":"1000"}}"#,
            4,
            "downloading: 50.000 % of 1.00 kB",
        ),
        (&["progress", "a"], "hello", 1, ""),
    ];
    for (args, body, want, says) in cases {
        let (url, heard) = answering(body);
        let out = bftv2(&[args, &["--url", &url]].concat());
        assert_eq!(code(&out), want, "{args:?}: {}", text(&out.stderr));
        assert!(text(&out.stdout).contains(says), "{args:?}: {}", text(&out.stdout));
        heard.join().expect("the service");
    }
}

#[test]
fn the_token_is_sent_and_the_name_completed() {
    let (url, heard) = answering(r#"{"return_status":"true","return_content":{"desc":"succeed!"}}"#);
    let out = Command::new(env!("CARGO_BIN_EXE_bftv2"))
        .args(["cancel", "cfec-001-film", "--json", "--url", &url])
        .env("BFT2_TOKEN", "example-token")
        .output()
        .expect("bftv2 starts");
    assert_eq!(text(&out.stdout).trim(), r#"{"return_status":"true","return_content":{"desc":"succeed!"}}"#);
    let request = heard.join().expect("the service");
    assert!(request.to_ascii_lowercase().contains("authorization: bearer example-token"), "{request}");
    assert!(request.contains(r#""method_name":"cancel""#), "{request}");
    assert!(request.contains(r#""taskfile":"cfec-001-film.task.json""#), "{request}");
}

#[test]
fn a_watch_ends_with_the_last_answer() {
    // One answer per connection: the first question is already final.
    let (url, heard) = answering(r#"{"return_status":"true","return_content":{"status":"finished","desc":"succeed!"}}"#);
    let out = bftv2(&["query", "/data/dcp/cfec-001/dcps/film", "--watch", "--url", &url]);
    assert_eq!((code(&out), text(&out.stdout).trim()), (0, "finished: succeed!"), "{}", text(&out.stderr));
    assert!(heard.join().expect("the service").contains("/data/sender/tmp/cfec-001-film.task.json"));
}

#[test]
fn sql_without_a_database_names_the_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let db = dir.path().join("none.db");
    let out = bftv2(&["sql", "select 1", "--db", db.to_str().expect("utf-8")]);
    assert_eq!(code(&out), 5, "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("none.db"));
    let out = bftv2(&["sql", "delete from tasks", "--db", db.to_str().expect("utf-8")]);
    assert_eq!(code(&out), 1);
    assert!(text(&out.stderr).contains("only statements that read"));
}

#[test]
fn the_demo_refuses_what_does_not_fit() {
    let dir = tempfile::tempdir().expect("tempdir");
    let work = dir.path().join("demo");
    let out = bftv2(&["demo", "--size", "900T", "--dir", work.to_str().expect("utf-8")]);
    assert_eq!(code(&out), 5, "{}", text(&out.stderr));
    let said = text(&out.stderr);
    assert!(said.contains("are free") && said.contains("--size"), "{said}");
    assert!(!work.exists(), "an empty directory was left behind");
}
