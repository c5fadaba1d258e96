"""What pages have in common: one look, plots in its colours, images inside. No page itself."""
