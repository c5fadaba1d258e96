"""What pages have in common: one look, plots in its colours, pictures inside. No page itself."""
