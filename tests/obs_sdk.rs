//! Checks the emulator itself: Huawei's own Python SDK talks to it, every signature verified. Run by
//! `scripts/check_obs_emulator.sh`, which installs the SDK and says where its Python is.

mod support;

use support::obs_emulator::{AK, ObsEmulator, Op, SK};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_emulator_serves_the_official_sdk() {
    let Some(python) = std::env::var_os("BFT2_SDK_PYTHON") else {
        println!("skipped: BFT2_SDK_PYTHON is not set; scripts/check_obs_emulator.sh sets it");
        return;
    };
    let emulator = ObsEmulator::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/obs_sdk_check.py");
    let output = tokio::process::Command::new(python)
        .args([script, &emulator.addr.port().to_string(), AK, SK])
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("every step passed"), "{out}\n{err}");
    for op in [
        Op::Put,
        Op::Get,
        Op::Head,
        Op::List,
        Op::Initiate,
        Op::PutPart,
        Op::ListParts,
        Op::ListUploads,
        Op::Complete,
        Op::Abort,
        Op::Delete,
    ] {
        assert!(emulator.count(op) > 0, "the SDK did not send {op:?}");
    }
}
