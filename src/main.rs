//! x
use std::time::Duration;
fn main() -> lameduck::Result<lameduck::Report> {
    env_logger::Builder::from_default_env().filter_level(log::LevelFilter::Info).init();
    let bound =
        lameduck::Server::builder().on_signals([2, 15]).grace_period(Duration::from_secs(2)).bind("127.0.0.1:8080")?;
    eprintln!("listening on {}", bound.addr());
    let r = bound.run(|request: lameduck::Request, cx: lameduck::Context| {
        if request.uri().path() == "/sleep" {
            let ms = request.uri().query().unwrap().strip_prefix("ms=").unwrap().parse().unwrap();
            std::thread::sleep(Duration::from_millis(ms));
        }
        let _ = cx;
        lameduck::Response::new(if request.uri().path() == "/echo" {
            request.into_body()
        } else {
            "Hello, World!".into()
        })
    })?;
    eprint!("{r}");
    Ok(r)
}
