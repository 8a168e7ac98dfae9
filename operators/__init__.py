"""What happens to events, in the order it happens: decode, meter, shard, dedupe, window, bill."""
