"""What sources of pictures and sound share: reading streams by PyAV."""
