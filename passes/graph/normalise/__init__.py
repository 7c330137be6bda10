"""One form of graph for all later passes, whatever the exporter wrote."""
