//! Aligned columns.

use super::printable;

/// Rows under their headings, two spaces between columns, nothing after the last.
pub(crate) fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let rows: Vec<[String; COLUMNS]> =
        rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let headings = headings.map(str::to_owned);
    std::iter::once(&headings).chain(&rows).map(|row| line(row, &widths)).collect()
}

/// One field a line: its name, and its value in a common column.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| line(&[(*name).to_owned(), printable(value)], &[width, 0])).collect()
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "x".to_owned()], ["bäb".to_owned(), "y".to_owned()]];
        assert_eq!(table(["A", "LAST"], &rows), "A    LAST\na    x\nbäb  y\n");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal_or_begin_a_line() {
        let shown = table(["A"], &[["x\u{1b}[2J\ny\u{202e}".to_owned()]]);
        assert_eq!(shown, "A\nx\u{fffd}[2J\u{fffd}y\u{fffd}\n");
    }
}
