"""The campaign: what growing saves at equal accuracy. Independent, resumable runs, the most telling first."""
