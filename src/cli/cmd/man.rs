//! `man`: the manual pages.

use clap::CommandFactory as _;
use serde_json::json;

use crate::cli::args::{Cli, ManArgs};
use crate::cli::error::Error;
use crate::cli::output::Report;

/// Writes a page for the program and one for each command. Pages that are there are replaced.
pub(crate) fn run(args: &ManArgs) -> Result<Report, Error> {
    let fail = |action, path: &std::path::Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    std::fs::create_dir_all(&args.dir).map_err(fail("cannot make", &args.dir))?;
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    let all = std::iter::once(("orkvault".to_owned(), command.clone()))
        .chain(command.get_subcommands().map(|each| (format!("orkvault-{}", each.get_name()), each.clone())));
    for (name, command) in all {
        let path = args.dir.join(format!("{name}.1"));
        let mut page = Vec::new();
        let man = clap_mangen::Man::new(command);
        man.render(&mut page).map_err(fail("cannot make", &path))?;
        std::fs::write(&path, page).map_err(fail("cannot write", &path))?;
        pages.push(path.display().to_string());
    }
    Ok(Report::done(json!({ "pages": pages }), pages))
}
