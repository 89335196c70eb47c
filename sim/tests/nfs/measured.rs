//! The experiments that were made with two real kernels, made on the model:
//! what was lost there is lost here, what held there holds here.

use super::*;
use sim::nfs::Version;

const LINES: usize = 300;

fn line(host: usize, n: usize) -> String {
    format!("{host}:{n:05}:{}\n", "x".repeat(55))
}

/// Lines that arrived whole, and whether there are NUL bytes among them.
fn whole(nas: &FileServer, path: &str) -> (usize, bool) {
    let data = nas.read(path).unwrap();
    let whole = data.split(|b| *b == b'\n').filter(|l| l.len() == 63 && l.ends_with(b"xxx"));
    (whole.filter(|l| l[1] == b':').count(), data.contains(&0))
}

async fn open_or_create(fs: &Fs, path: &str) -> Box<dyn File> {
    match fs.open(path, Open::CreateNew).await {
        Ok(f) => f,
        Err(_) => fs.open(path, Open::Write).await.unwrap(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    OpenAppendClose,
    KeepAndClose,
    KeepAndSync,
}

/// One host's part: appends at what it believes to be the end.
async fn append(fs: Fs, host: usize, path: &'static str, how: How) {
    let mut f = open_or_create(&fs, path).await;
    for n in 0..LINES {
        let end = f.size().await.unwrap();
        write(&*f, end, &line(host, n)).await;
        match how {
            How::OpenAppendClose => {
                f.close().await.unwrap();
                f = fs.open(path, Open::Write).await.unwrap();
            }
            How::KeepAndSync => f.sync().await.unwrap(),
            How::KeepAndClose => tokio::time::sleep(Duration::from_micros(300)).await,
        }
    }
    f.close().await.unwrap();
}

fn all_options() -> [(&'static str, MountOptions); 4] {
    [
        ("4.2 positive", MountOptions::default()),
        ("4.2 noac", MountOptions::noac()),
        ("4.2 kernel defaults", MountOptions::kernel()),
        ("3 positive", MountOptions::default().v3()),
    ]
}

#[tokio::test(start_paused = true)]
async fn two_hosts_appending_to_one_file_lose_data_under_every_option() {
    for (name, options) in all_options() {
        for how in [How::OpenAppendClose, How::KeepAndClose, How::KeepAndSync] {
            let (nas, a, b) = two(options.clone());
            tokio::join!(append(a, 1, "/A", how), append(b, 2, "/A", how));
            let (lines, _) = whole(&nas, "/A");
            assert!(lines < 2 * LINES, "{name}: nothing was lost");
            assert!(lines >= LINES / 4, "{name}: {lines}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_host_appending_loses_nothing() {
    for (name, options) in all_options() {
        for how in [How::OpenAppendClose, How::KeepAndClose, How::KeepAndSync] {
            let (nas, a, _) = two(options.clone());
            append(a, 1, "/A", how).await;
            assert_eq!(whole(&nas, "/A"), (LINES, false), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hand_over_after_close_loses_nothing() {
    for (name, options) in all_options() {
        let (nas, a, b) = two(options.clone());
        for n in 0..LINES {
            let (host, fs) = if n % 2 == 0 { (1, &a) } else { (2, &b) };
            let f = open_or_create(fs, "/A").await;
            let end = f.size().await.unwrap();
            write(&*f, end, &line(host, n)).await;
            f.close().await.unwrap();
        }
        assert_eq!(whole(&nas, "/A"), (LINES, false), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn growth_is_seen_by_who_opens_after_the_close() {
    for (name, options) in all_options() {
        let (_, a, b) = two(options);
        create(&a, "/D", "").await;
        for round in 0..5 {
            b.stat("/D").await.unwrap();
            let f = a.open("/D", Open::Write).await.unwrap();
            write(&*f, round * 100, &"y".repeat(100)).await;
            f.close().await.unwrap();
            let f = b.open("/D", Open::Read).await.unwrap();
            assert_eq!(f.size().await.unwrap(), (round + 1) * 100, "{name}");
        }
    }
}

/// Seconds until a name that was asked for too early is seen, per option set.
#[tokio::test(start_paused = true)]
async fn new_names_after_looking_too_early() {
    for (name, options) in all_options() {
        let (_, a, b) = two(options);
        assert!(!exists(&b, "/C").await);
        secs(0.2).await;
        create(&a, "/C", "x").await;
        let late = appears_after(&b, "/C").await;
        let expected = if name == "4.2 kernel defaults" { 28.0..30.0 } else { 0.0..0.02 };
        assert!(expected.contains(&late), "{name}: {late}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_name_can_be_empty_at_first_sight() {
    for (name, options) in all_options() {
        let mut empty = 0;
        for seed in 0..10 {
            let nas = FileServer::on_tokio(seed, ServerOptions::default());
            let (a, b) = (nas.mount("a", options.clone()), nas.mount("b", options.clone()));
            let (_, seen) = tokio::join!(create(&a, "/C", "x"), async {
                loop {
                    if let Ok(t) = text(&b, "/C").await {
                        return t;
                    }
                    secs(0.001).await;
                    if name == "4.2 kernel defaults" {
                        secs(30.0).await;
                    }
                }
            });
            empty += usize::from(seen.is_empty());
        }
        assert!(empty > 0 || name == "4.2 kernel defaults", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_file_after_it_was_replaced() {
    for (name, options) in all_options() {
        let v3 = options.vers == Version::V3;
        let mut stale = 0;
        for seed in 0..20 {
            let nas = FileServer::on_tokio(seed, ServerOptions::default());
            let (a, b) = (nas.mount("a", options.clone()), nas.mount("b", options.clone()));
            create(&a, "/E", &"v1".repeat(10)).await;
            create(&a, "/E.new", &"v2".repeat(10)).await;
            let f = b.open("/E", Open::Read).await.unwrap();
            a.rename("/E.new", "/E").await.unwrap();
            secs(9.0).await;
            match contents(&*f).await {
                Ok(t) => assert_eq!(t, "v1".repeat(10), "{name}"),
                Err(e) if e.kind() == ErrorKind::StaleNetworkFileHandle => stale += 1,
                Err(e) => panic!("{name}: {e}"),
            }
            secs(30.0).await;
            assert_eq!(text(&b, "/E").await.unwrap(), "v2".repeat(10), "{name}");
        }
        assert!(if v3 { stale == 20 } else { stale > 2 && stale < 20 }, "{name}: {stale} stale");
    }
}
