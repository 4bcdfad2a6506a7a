//! `ronctl top`: a node, its rates and its topics, as they are now and again every second.

mod frame;
mod scrape;

use crate::ambient;
use crate::args;
use crate::client::{Call, Client};
use crate::control;
use crate::failure::{Failure, failed};
use crate::output::Output;
use clap::Args;
use frame::View;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use scrape::Scrape;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How it is shown.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often to look
    #[arg(long, value_parser = args::duration, default_value = "1s")]
    every: Duration,
    /// Print one frame as text and end; needs no terminal
    #[arg(long)]
    once: bool,
}

/// Columns and lines of a frame that is printed.
const PRINTED: (u16, u16) = (120, 60);
/// Looking more often costs the node more than it shows.
const EVERY_MIN: Duration = Duration::from_millis(100);

/// Runs `ronctl top`.
///
/// # Errors
/// There is no terminal, or no node answers (any more).
pub(crate) async fn run(args: TopArgs, node: Client, out: Output) -> Result<(), Failure> {
    if out.json {
        return Err(Failure::Usage("top has no JSON: see `ronctl status --json`".to_owned()));
    }
    let every = args.every.max(EVERY_MIN);
    let watched = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !(args.once || watched) {
        let text = "top needs a terminal: see `ronctl status`, or `ronctl top --once`";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut source = Source::of(node).await?;
    if args.once {
        tokio::time::sleep(every).await;
        return print(&source.look().await?, out);
    }
    let mut terminal = ratatui::try_init().map_err(|error| failed(format!("the terminal: {error}")))?;
    let shown = show(&mut terminal, &mut source, every).await;
    ratatui::restore();
    shown
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    source: &mut Source,
    every: Duration,
) -> Result<(), Failure> {
    let broken = |error: io::Error| failed(format!("the terminal: {error}"));
    loop {
        let view = source.look().await?;
        let until = ambient::now() + every;
        loop {
            terminal.draw(|frame| view.draw(frame)).map_err(broken)?;
            // Nothing else is to be done meanwhile: the next call finds its connection as it was.
            let wait = until.saturating_duration_since(ambient::now());
            if !event::poll(wait).map_err(broken)? {
                break;
            }
            if quits(&event::read().map_err(broken)?) {
                return Ok(());
            }
        }
    }
}

fn quits(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

fn print(view: &View, out: Output) -> Result<(), Failure> {
    let (columns, lines) = PRINTED;
    let broken = |error| failed(format!("drawing: {error}"));
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).map_err(broken)?;
    terminal.draw(|frame| view.draw(frame)).map_err(broken)?;
    let cells = terminal.backend().buffer().content().chunks(usize::from(columns));
    let text: Vec<String> = cells
        .map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned())
        .collect();
    out.line(text.join("\n").trim_end())
}

/// Where the figures come from: the control socket.
#[derive(Debug)]
struct Source {
    node: Client,
    before: (Scrape, Instant),
}

impl Source {
    async fn of(mut node: Client) -> Result<Source, Failure> {
        let before = (scrape(&mut node).await?, ambient::now());
        Ok(Source { node, before })
    }

    /// The node as it is, with the rates since the last look.
    async fn look(&mut self) -> Result<View, Failure> {
        let status = control::status(&mut self.node).await?;
        let (now, at) = (scrape(&mut self.node).await?, ambient::now());
        let kept = Scrape::clone(&now);
        let (before, since) = std::mem::replace(&mut self.before, (kept, at));
        Ok(View { status, before, now, seconds: at.duration_since(since).as_secs_f64() })
    }
}

async fn scrape(node: &mut Client) -> Result<Scrape, Failure> {
    let answer = node.call(Call::get("/ctl/metrics")).await?;
    if !answer.status.is_success() {
        return Err(failed(answer.refused().to_string()));
    }
    Ok(Scrape::read(&String::from_utf8_lossy(&answer.body)))
}
