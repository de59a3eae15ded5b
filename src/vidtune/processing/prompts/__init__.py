"""How conversations are written as text: prompt formats as data, and what of a prompt is learned."""
