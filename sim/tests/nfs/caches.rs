//! Names, attributes and listings that a host believes too long.

use super::*;
use sim::nfs::Removed;

#[tokio::test(start_paused = true)]
async fn a_name_looked_up_too_early_stays_absent_for_half_a_minute() {
    let (_, a, b) = two(MountOptions::kernel());
    assert!(!exists(&b, "/new").await);
    create(&a, "/new", "x").await;
    assert_eq!(b.open("/new", Open::Read).await.unwrap_err().kind(), ErrorKind::NotFound);
    let late = appears_after(&b, "/new").await;
    assert!((28.0..=30.1).contains(&late), "{late}");
    assert_eq!(text(&b, "/new").await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn lookupcache_positive_asks_again_for_absent_names() {
    let (_, a, b) = two(MountOptions::default());
    assert!(!exists(&b, "/new").await);
    create(&a, "/new", "x").await;
    let late = appears_after(&b, "/new").await;
    assert!(late < 0.02, "{late}");
}

#[tokio::test(start_paused = true)]
async fn a_removed_name_is_still_there_for_a_while() {
    let (_, a, b) = two(MountOptions::default());
    create(&a, "/gone", "x").await;
    assert!(exists(&b, "/gone").await);
    a.remove("/gone").await.unwrap();
    assert!(exists(&b, "/gone").await, "the name is cached");
    secs(1.1).await;
    assert!(!exists(&b, "/gone").await);
}

#[tokio::test(start_paused = true)]
async fn a_host_sees_its_own_names_at_once() {
    let (_, a, _) = two(MountOptions::kernel());
    assert!(!exists(&a, "/d/new").await);
    create(&a, "/d/new", "x").await;
    assert!(exists(&a, "/d/new").await);
    a.rename("/d/new", "/e/newer").await.unwrap();
    assert!(!exists(&a, "/d/new").await);
    assert_eq!(text(&a, "/e/newer").await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn a_length_is_believed_until_the_attributes_are_old() {
    let (_, a, b) = two(MountOptions::kernel());
    create(&a, "/f", "12345").await;
    assert_eq!(b.stat("/f").await.unwrap().len, 5);
    let f = a.open("/f", Open::Write).await.unwrap();
    write(&*f, 5, "678").await;
    f.close().await.unwrap();
    assert_eq!(b.stat("/f").await.unwrap().len, 5, "acregmin is 3 s");
    secs(3.1).await;
    assert_eq!(b.stat("/f").await.unwrap().len, 8);
}

#[tokio::test(start_paused = true)]
async fn the_time_for_which_attributes_are_believed_grows() {
    let (_, a, b) = two(MountOptions::kernel());
    create(&a, "/f", "1").await;
    for _ in 0..40 {
        b.stat("/f").await.unwrap();
        secs(5.0).await;
    }
    let f = a.open("/f", Open::Write).await.unwrap();
    write(&*f, 1, "2").await;
    f.close().await.unwrap();
    b.stat("/f").await.unwrap();
    let start = tokio::time::Instant::now();
    while b.stat("/f").await.unwrap().len == 1 {
        secs(0.5).await;
    }
    let late = start.elapsed().as_secs_f64();
    assert!((5.0..=60.1).contains(&late), "more than acregmin: {late}");
}

#[tokio::test(start_paused = true)]
async fn two_hosts_create_one_name_and_one_wins() {
    for make in [MountOptions::kernel(), MountOptions::kernel().v3()] {
        let (_, a, b) = two(make);
        let (x, y) =
            tokio::join!(a.open("/d/one", Open::CreateNew), b.open("/d/one", Open::CreateNew));
        assert!(x.is_ok() != y.is_ok());
        let lost = x.err().or(y.err()).unwrap();
        assert_eq!(lost.kind(), ErrorKind::AlreadyExists);
        assert!(lost.to_string().contains("/d/one"));
    }
}

#[tokio::test(start_paused = true)]
async fn two_hosts_link_one_name_and_one_wins() {
    let (_, a, b) = two(MountOptions::kernel());
    create(&a, "/ta", "A").await;
    create(&b, "/tb", "B").await;
    let (x, y) = tokio::join!(a.link("/ta", "/one"), b.link("/tb", "/one"));
    assert!(x.is_ok() != y.is_ok());
    let winner = if x.is_ok() { "A" } else { "B" };
    assert_eq!(text(&a, "/one").await.unwrap(), winner);
    assert_eq!(text(&b, "/one").await.unwrap(), winner);
}

#[tokio::test(start_paused = true)]
async fn a_rename_has_one_winner_even_with_an_old_name_in_the_cache() {
    let (_, a, b) = two(MountOptions::kernel());
    create(&a, "/task", "x").await;
    assert!(exists(&b, "/task").await);
    a.rename("/task", "/taken-by-a").await.unwrap();
    let e = b.rename("/task", "/taken-by-b").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_listing_of_several_calls_is_torn() {
    let small = MountOptions::default().choppy();
    assert_eq!(small.dir_page, 3);
    let (_, a, b) = two(small);
    for n in ["b1", "b2", "b3", "c", "d", "e"] {
        create(&a, &format!("/d/{n}"), "").await;
    }
    // The file moves from behind the reader to before it.
    let mut missed = 0;
    for n in 0..50 {
        let (listed, _) = tokio::join!(names(&b, "/d"), async {
            secs(0.001 * f64::from(n % 10)).await;
            a.rename("/d/e", "/d/a").await.unwrap();
        });
        missed += usize::from(!listed.iter().any(|n| n == "a" || n == "e"));
        a.rename("/d/a", "/d/e").await.unwrap();
    }
    assert!(missed > 0, "a file that was there all the time was never missed");
}

/// A file is replaced while another host has it open: what that host's handle
/// gives after a while, and what it read by name at once, twice.
async fn replaced(options: MountOptions, removed: Removed) -> [io::Result<String>; 3] {
    let nas = FileServer::on_tokio(1, ServerOptions { removed, ..Default::default() });
    let (a, b) = (nas.mount("a", options.clone()), nas.mount("b", options));
    create(&a, "/f", "old").await;
    create(&a, "/f.new", "new").await;
    let f = b.open("/f", Open::Read).await.unwrap();
    a.rename("/f.new", "/f").await.unwrap();
    secs(0.1).await;
    let by_name = [text(&b, "/f").await, text(&b, "/f").await];
    secs(1.5).await;
    assert_eq!(text(&b, "/f").await.unwrap(), "new", "by name, later");
    let [first, second] = by_name;
    [contents(&*f).await, first, second]
}

/// In short: `old`, `new`, or `stale`.
fn short(r: &io::Result<String>) -> &str {
    match r {
        Ok(t) => t,
        Err(e) if e.kind() == ErrorKind::StaleNetworkFileHandle => "stale",
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_replaced_elsewhere_while_open_here() {
    let gone = Removed::Gone(Duration::from_millis(1));
    let v4 = MountOptions::default;
    for (options, removed, expected) in [
        (v4().v3(), Removed::Kept, ["stale", "new", "new"]),
        (v4(), gone, ["stale", "new", "new"]),
        // The kernel opens the file that it knows by the name.
        (v4(), Removed::Kept, ["old", "old", "old"]),
        (v4(), Removed::Hollow, ["stale", "stale", "stale"]),
        (MountOptions::noac(), Removed::Kept, ["old", "new", "new"]),
        (MountOptions::noac(), Removed::Hollow, ["old", "new", "new"]),
    ] {
        let got = replaced(options.clone(), removed).await;
        assert_eq!(got.each_ref().map(short), expected, "{:?} {removed:?}", options.vers);
    }
}

#[tokio::test(start_paused = true)]
async fn asking_for_a_replaced_name_makes_it_new() {
    for list in [false, true] {
        let removed = Removed::Hollow;
        let nas = FileServer::on_tokio(1, ServerOptions { removed, ..Default::default() });
        let (a, b) =
            (nas.mount("a", MountOptions::kernel()), nas.mount("b", MountOptions::kernel()));
        create(&a, "/f", "old").await;
        create(&a, "/f.new", "new").await;
        let _f = b.open("/f", Open::Read).await.unwrap();
        a.rename("/f.new", "/f").await.unwrap();
        assert_eq!(short(&text(&b, "/f").await), "stale");
        if list {
            b.list("/").await.unwrap();
        } else {
            b.stat("/f").await.unwrap();
        }
        assert_eq!(text(&b, "/f").await.unwrap(), "new");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_removed_on_the_host_that_has_it_open_is_hidden_until_closed() {
    let (nas, a, b) = two(MountOptions::default().v3());
    create(&a, "/d/f", "old").await;
    let f = a.open("/d/f", Open::Read).await.unwrap();
    a.remove("/d/f").await.unwrap();
    assert!(!exists(&a, "/d/f").await);
    secs(2.0).await;
    assert_eq!(contents(&*f).await.unwrap(), "old");
    let left = names(&b, "/d").await;
    assert!(left.len() == 1 && left[0].starts_with(".nfs"), "{left:?}");
    f.close().await.unwrap();
    secs(1.0).await;
    assert!(nas.names().is_empty());
    create(&a, "/d/g", "old").await;
    create(&a, "/d/h", "new").await;
    let g = a.open("/d/g", Open::Read).await.unwrap();
    a.rename("/d/h", "/d/g").await.unwrap();
    secs(2.0).await;
    assert_eq!(contents(&*g).await.unwrap(), "old", "replaced by this very host");
    assert_eq!(text(&a, "/d/g").await.unwrap(), "new");
}
