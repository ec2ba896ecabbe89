"""Named loss terms and the functions behind them."""
