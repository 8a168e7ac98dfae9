"""What things are: events, meters, prices, plans, accounts. Pure: no clock, no file, no network."""
